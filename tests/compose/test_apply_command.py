"""The command that edits the ConfigMap on Kubernetes, against an API server that answers as one does."""

import importlib.util
import io
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.certificates import Authority, needs_openssl
from tests.support.fleet import ROOT

SCRIPT = ROOT / "compose" / "kubernetes" / "components" / "autopilot" / "apply.py"
OLD, NEW, OTHERS = "version: 1\n# old\n", "version: 1\n# new\n", "version: 1\n# somebody else's\n"


class ApiServer:
    """Keeps one ConfigMap, and changes it as the API does: by a merge patch, if its version is that which was read."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        self.object: dict[str, Any] = {
            "metadata": {"name": "experiments", "resourceVersion": "7"},
            "data": {"recommender.yaml": OLD},
        }
        self.changed_meanwhile = False
        self.asked: list[tuple[str, str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self, None)

            def do_PATCH(self) -> None:
                server.answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, format: str, *arguments: object) -> None:
                """Tests have no use for it."""

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, certificate))
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)

    def answer(self, request: BaseHTTPRequestHandler, patch: dict[str, Any] | None) -> None:
        self.asked.append((request.command, request.path, request.headers["Authorization"]))
        status = 200
        if patch is not None:
            if (
                self.changed_meanwhile
                or patch["metadata"]["resourceVersion"] != self.object["metadata"]["resourceVersion"]
            ):
                status = 409
            else:
                self.object["data"] |= patch["data"]
                self.object["metadata"] |= {**patch["metadata"], "resourceVersion": "8"}
        body = json.dumps(self.object).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Path, Path]]:
    authority = Authority(tmp_path_factory.mktemp("ca"))
    return authority.ca, authority.issue("api", "IP:127.0.0.1")


@pytest.fixture
def api(
    certificate: tuple[Path, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ApiServer]:
    """One that serves, and the environment of a pod."""
    server = ApiServer(certificate[1])
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    (tmp_path / "namespace").write_text("abfleet")
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "ca.crt").write_bytes(certificate[0].read_bytes())
    (tmp_path / "recommender.yaml").write_text(OLD)
    monkeypatch.setenv("ABFLEET_EXPERIMENTS", str(tmp_path / "recommender.yaml"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.http.server_address[1]))
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def script(account: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("apply_command", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ACCOUNT = account  # type: ignore[attr-defined]
    return module


def applied(account: Path, monkeypatch: pytest.MonkeyPatch, text: str = NEW) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    code: int = script(account).main("experiments", "recommender.yaml", "halt e canary: it harms")
    return code


@needs_openssl
def test_the_config_map_gets_the_file_and_the_sentence(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the pod's token; and a second time, before the kubelet has brought it, nothing more is done."""
    assert applied(tmp_path, monkeypatch) == 0
    assert api.object["data"] == {"recommender.yaml": NEW}
    assert api.object["metadata"]["annotations"] == {"abfleet/last-act": "halt e canary: it harms"}
    path = "/api/v1/namespaces/abfleet/configmaps/experiments"
    assert api.asked == [("GET", path, "Bearer secret"), ("PATCH", path, "Bearer secret")]
    assert applied(tmp_path, monkeypatch) == 0
    assert [method for method, _, _ in api.asked] == ["GET", "PATCH", "GET"]


@needs_openssl
def test_somebody_elses_edit_is_not_overwritten(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither one that this pod has not seen yet, nor one of the same moment; both are said, with exit code 1."""
    api.object["data"]["recommender.yaml"] = OTHERS
    assert applied(tmp_path, monkeypatch) == 1
    assert "this pod does not have the change yet" in capsys.readouterr().err
    assert api.object["data"] == {"recommender.yaml": OTHERS}
    api.object["data"]["recommender.yaml"], api.changed_meanwhile = OLD, True
    assert applied(tmp_path, monkeypatch) == 1
    assert "the API server answered 409" in capsys.readouterr().err


@needs_openssl
def test_an_api_server_that_is_not_the_clusters_gets_nothing(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its certificate is checked by the cluster's authority, and what is wrong is said in one line."""
    Authority(tmp_path / "other", "other").ca.rename(tmp_path / "ca.crt")
    assert applied(tmp_path, monkeypatch) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert api.asked == []
