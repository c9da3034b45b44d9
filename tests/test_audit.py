"""`./run audit` against an index that serves projects' pages alone, with a pip-audit that finds what it is told to."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.proofs import audit
from tests.test_repository import ROOT

PINS = audit.pins("".join((ROOT / name).read_text() for name in audit.LOCKS))
KNOWN = {"id": "PYSEC-2026-1", "fixed_in": ["9.9"]}


class Index(ThreadingHTTPServer):
    """Serves `/pypi/NAME/json` from `pages`, and 404 for all else."""

    def __init__(self) -> None:
        self.pages = {
            name: {"info": {"version": version}, "vulnerabilities": list[dict[str, Any]]()}
            for name, version in PINS.items()
        }
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.removeprefix("/pypi/").removesuffix("/json"))
        self.send_response(200 if page else 404)
        self.end_headers()
        self.wfile.write(json.dumps(page).encode())

    def log_message(self, *_: object) -> None:
        """Nothing of a test's requests is said."""


@pytest.fixture
def index() -> Iterator[Index]:
    """An index where each pin is its project's newest, and nothing is known against any."""
    with Index() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(index: Index, folder: Path, dependencies: list[dict[str, object]], code: int = 0) -> tuple[int, str]:
    """The exit code and what is printed, where pip-audit prints `dependencies` and ends with `code`."""
    (folder / "found.json").write_text(json.dumps({"dependencies": dependencies}))
    uv = folder / "uv"
    uv.write_text(f"#!/bin/sh\ncat {folder}/found.json\nexit {code}\n")
    uv.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "tests.proofs", "audit", "--index", index.url],
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def skipped(*names: str) -> list[dict[str, object]]:
    """pip-audit's words for packages that it could not look up."""
    return [{"name": name, "skip_reason": "not found"} for name in names]


def test_the_project_page_answers_for_its_newest_version(index: Index, tmp_path: Path) -> None:
    """What pip-audit skips is looked up there, and nothing found is success."""
    code, said = run(index, tmp_path, [{"name": "numpy", "version": PINS["numpy"], "vulns": []}, *skipped("grpcio")])
    assert code == 0, said
    asked = f"{len(PINS)} packages: 1 looked up by version, {len(PINS) - 1} as their project's newest, 0 not;"
    assert f"{asked} 0 advisories, 0 with a fix" in said


def test_an_advisory_with_a_fix_fails(index: Index, tmp_path: Path) -> None:
    """Found by pip-audit, or on the project's page; both are named with the version that mends them."""
    vulns = [{"id": "GHSA-1", "fix_versions": ["99.1"]}]
    code, said = run(index, tmp_path, [{"name": "numpy", "version": PINS["numpy"], "vulns": vulns}], code=1)
    assert (code, f"numpy {PINS['numpy']}: GHSA-1, fixed in 99.1" in said) == (1, True), said

    index.pages["grpcio"]["vulnerabilities"] = [KNOWN]
    code, said = run(index, tmp_path, skipped("grpcio"))
    assert (code, f"grpcio {PINS['grpcio']}: PYSEC-2026-1, fixed in 9.9" in said) == (1, True), said


def test_an_advisory_without_a_fix_or_withdrawn_does_not(index: Index, tmp_path: Path) -> None:
    """The first is told, the second is not."""
    index.pages["grpcio"]["vulnerabilities"] = [KNOWN | {"fixed_in": []}, {"id": "old", "withdrawn": "2026-01-01"}]
    code, said = run(index, tmp_path, skipped("grpcio"))
    assert code == 0, said
    assert "PYSEC-2026-1, no fix is known" in said
    assert "old" not in said


def test_what_nobody_could_be_asked_about_fails(index: Index, tmp_path: Path) -> None:
    """A page of another version says nothing of the pin, and an absent page nothing at all."""
    index.pages["grpcio"]["info"] = {"version": "99.0"}
    del index.pages["numpy"]
    code, said = run(index, tmp_path, skipped("grpcio", "numpy"))
    assert code == 1, said
    assert f"grpcio {PINS['grpcio']}: not looked up, the page tells of 99.0 alone" in said
    assert f"numpy {PINS['numpy']}: not looked up, its page cannot be read" in said, said

    code, said = run(index, tmp_path, [], code=2)
    assert code == 1
    assert "pip-audit ended with 2" in said
