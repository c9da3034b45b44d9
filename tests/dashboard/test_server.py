"""The dashboard over HTTP, as a real process: what is where, what is refused, and what every answer carries."""

import json
import random
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from abfleet_analysis.analyse import analyse
from abfleet_dashboard import app
from abfleet_dashboard.access import COOKIE, HEADERS
from abfleet_experiments.file.load import load
from abfleet_process.security.tokens import new

from tests.analysis.log_lines import DAY, START, LogLines, file_text
from tests.support.dashboard import Answer, Dashboard, dashboard
from tests.support.fleet import wait_until

pytestmark = pytest.mark.system
HOSTILE = "<script>alert(1)</script>"
PAGES = ("/", "/fleet", "/shadow", "/experiments/test", "/report/test.html", "/glossary")


def write_log(
    folder: Path, users: int = 400, name: str = "decisions-host-20261101T000000-1.jsonl", seed: int = 1
) -> None:
    """A small experiment of two halves over nine days, and one whose name is not nice."""
    drawn, lines = random.Random(seed), LogLines()
    for user in range(users):
        group = drawn.choice(("control", "treatment"))
        at = START + DAY * 9 * drawn.random()
        request = lines.exposure(f"user-{seed}-{user}", group, at, request_id=f"{seed}-{user}")
        if drawn.random() < 0.3:
            lines.outcome("click", f"user-{seed}-{user}", request, at, item_id=1, outcome_id=f"o-{seed}-{user}")
    lines.exposure("someone", "control", request_id=f"h-{seed}", experiment=HOSTILE, attributes={"country": HOSTILE})
    (folder / "logs").mkdir(exist_ok=True)
    lines.write(folder / "logs", name)


@contextmanager
def prepared(folder: Path, *flags: str, log: bool = True) -> Iterator[Dashboard]:
    (folder / "experiments.yaml").write_text(file_text())
    (folder / "logs").mkdir()
    if log:
        write_log(folder)
    with dashboard(folder, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """One over a small log, with its first report."""
    with prepared(tmp_path_factory.mktemp("dashboard")) as running:
        running.report()
        yield running


def test_the_document_is_the_one_of_analyze(shown: Dashboard) -> None:
    """/api/report.json is what `abfleet analyze --json` prints of the same log."""
    folder = shown.process.stderr_path.parent
    expected = analyse([folder / "logs"], load(folder / "experiments.yaml")).as_dict()
    assert shown.report() == json.loads(json.dumps(expected))


def test_shadow_calls_are_compared_while_somebody_asks(shown: Dashboard) -> None:
    """503 at first, because nothing is made that nobody wants; then the document, and a page that says the same."""
    wait_until(lambda: shown.ask("/api/shadow.json").status == 200, "the comparison", 60.0)
    assert shown.ask("/api/shadow.json").json() == {"comparisons": [], "synthetic": 0}
    assert "No version is asked in the shadow." in shown.ask("/shadow").text


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_there_and_kept(shown: Dashboard, path: str) -> None:
    """Each page is HTML with a tag; who has these bytes is told so without them."""
    answer = shown.ask(path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1" in answer.text
    tags = [answer.headers["etag"]]

    def unchanged() -> bool:
        again = shown.ask(path, If_None_Match=tags[-1])
        tags.append(again.headers["etag"])
        assert (again.status == 304) == (again.body == b"")
        return again.status == 304

    wait_until(unchanged, "the same page twice")
    head = shown.ask(path, "HEAD")
    assert (head.status, head.body) == (200, b"")


def test_a_report_is_a_file_to_keep(shown: Dashboard) -> None:
    """The report comes as a download with a harmless name, also that of an experiment with a hostile one."""
    disposition = shown.ask("/report/test.html").headers["content-disposition"]
    assert disposition == 'attachment; filename="test.html"'
    answer = shown.ask("/report/%3Cscript%3Ealert(1)%3C%2Fscript%3E.html")
    assert answer.status == 200
    assert answer.headers["content-disposition"] == 'attachment; filename="_script_alert_1___script_.html"'


def test_tables_are_files_to_keep(shown: Dashboard) -> None:
    """CSV with a harmless name, of an experiment, of all of them and of the fleet; what is not there is no table."""
    for path, name in (
        ("/csv/test/metrics.csv", "test-metrics"),
        ("/csv/%3Cscript%3Ealert(1)%3C%2Fscript%3E/groups.csv", "_script_alert_1___script_-groups"),
        ("/csv/experiments.csv", "abfleet-experiments"),
        ("/csv/fleet-calls.csv", "abfleet-fleet-calls"),
    ):
        answer = shown.ask(path)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}.csv"'
        assert "," in answer.text
    for path in ("/csv/test/nothing.csv", "/csv/nobody/metrics.csv", "/csv/nothing.csv", "/csv/fleet-nothing.csv"):
        assert shown.ask(path).status == 404


def test_a_filter_is_part_of_the_address(shown: Dashboard) -> None:
    """Each has a page of its own, and leaves the others as they are."""
    assert ">test<" in shown.ask("/?state=running").text
    assert "No experiment matches." in shown.ask("/?state=running&owner=nobody").text
    assert HOSTILE not in shown.ask("/?owner=%3Cscript%3Ealert(1)%3C/script%3E").text
    assert ">test<" in shown.ask("/").text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/api/report.json", "/nothing"])
def test_nothing_can_be_done_but_reading(shown: Dashboard, method: str, path: str) -> None:
    """405 for every other method, wherever."""
    answer = shown.ask(path, method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/static/....//app.py",
        "/static/abfleet.css/../../app.py",
        "/static/",
        "/static",
        "/experiments/../../etc/passwd",
        "/experiments/",
        "/experiments/none",
        "/experiments/test/",
        "/report/../report/none.html",
        "/report/..%2f..%2fetc%2fpasswd.html",
        "/report/test",
        "/etc/passwd",
        "//etc/passwd",
        "/api",
        "/api/",
        "/docs",
        "/openapi.json",
        "/index.html",
        "/%00",
        "/experiments/%00",
        "/static/abfleet.css%00.js",
    ],
)
def test_nothing_else_is_there(shown: Dashboard, path: str) -> None:
    """404, and nothing of any file, for everything that is no page."""
    answer = shown.ask(path)
    assert answer.status == 404
    assert "root:" not in answer.text
    assert "import " not in answer.text


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "a b", ""])
def test_another_host_name_is_refused(shown: Dashboard, host: str) -> None:
    """A page of another origin that points its own name here gets no data: not even the JSON."""
    for path in ("/", "/api/report.json", "/healthz"):
        answer = shown.ask(path, Host=host)
        assert answer.status == 421
        assert b"homepage" not in answer.body
        assert b'"lines"' not in answer.body
    assert shown.ask("/", Host="localhost:1").status == 200


def has_every_header(answer: Answer) -> bool:
    return all(answer.headers[name.decode()] == value.decode() for name, value in HEADERS)


def test_every_answer_carries_the_headers(shown: Dashboard) -> None:
    """Policy, nosniff and the rest on pages, files, JSON, refusals and what is unchanged; no word of the server."""
    tag = shown.ask("/static/live.js").headers["etag"]
    answers = [
        *(shown.ask(path) for path in (*PAGES, "/nothing", "/static/live.js", "/healthz", "/api/version")),
        shown.ask("/", "POST"),
        shown.ask("/", Host="evil.example"),
        shown.ask("/static/live.js", If_None_Match=tag),
    ]
    assert {answer.status for answer in answers} == {200, 404, 405, 421, 304}
    for answer in answers:
        assert has_every_header(answer)
        assert answer.headers["server"] is None
        assert answer.headers["cache-control"] in ("private, no-cache", "no-store")


def test_hostile_values_are_text(shown: Dashboard) -> None:
    """What comes from the log or the address is never markup, and no parameter reaches anything."""
    hostile, unknown = "%3Cscript%3Ealert(1)%3C/script%3E", "%22%3E%3Cimg%20src=x%20onerror=a()%3E"
    paths = ("/", f"/experiments/{hostile}", f"/experiments/{unknown}")
    for path in (*paths, "/%3Cscript%3E", "/?name=%3Cscript%3E&logs=/etc&token=%3Cscript%3E"):
        answer = shown.ask(path)
        text = answer.text.replace('<script src="/static/live.js" defer></script>', "")
        assert "<script" not in text
        assert "<img" not in text
    assert shown.ask(paths[1]).status == 200, "it is an experiment of the log"


def test_a_lot_of_bytes_is_no_request(shown: Dashboard) -> None:
    """A request that never ends its headers is refused, and the next caller is answered."""
    host, _, port = shown.address.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000)
        assert b" 400 " in connection.recv(100)
    assert shown.ask("/healthz").status == 200


def test_a_token_opens_it(tmp_path: Path) -> None:
    """Wrong, missing and foreign tokens: 401 without data. The right one: by header, or once in the address.

    And in the end it stops at once, whatever it is at, and leaves nothing.
    """
    right, stored = new("anna", ["dashboard"])
    feedback, other = new("shop", ["feedback"])
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{stored.line()}\n{other.line()}\n")
    with prepared(tmp_path, "--listen", "0.0.0.0:0", "--tokens", str(tokens), log=False) as running:
        running.address = running.address.replace("0.0.0.0", "127.0.0.1")
        for headers in (
            {},
            {"Authorization": f"Bearer {feedback}"},
            {"Authorization": "Bearer x"},
            {"Cookie": f"{COOKIE}=x"},
        ):
            for path in ("/", "/api/report.json", "/api/version", "/nothing", "/?token=wrong"):
                answer = running.ask(path, **headers)
                assert answer.status == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert "set-cookie" not in answer.headers
                assert has_every_header(answer)
                assert right not in answer.text
        assert running.ask("/healthz").status == 200
        assert running.ask("/", Authorization=f"Bearer {right}").status == 200
        entered = running.ask(f"//evil.example/x?token={right}")
        assert (entered.status, entered.headers["location"]) == (303, "/evil.example/x")
        entered = running.ask(f"/fleet?token={right}")
        assert (entered.status, entered.headers["location"]) == (303, "/fleet")
        cookie = entered.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
        assert running.ask("/fleet", Cookie=cookie.split(";")[0]).status == 200
        tokens.write_text(f"{other.line()}\n")
        wait_until(lambda: running.ask("/", Cookie=cookie.split(";")[0]).status == 401, "a token that was taken away")
        children = psutil.Process(running.process.popen.pid).children()
        folders = [Path(child.environ()["TMPDIR"]) for child in children]
    assert psutil.wait_procs(children, timeout=0)[1] == []
    assert not any(folder.exists() for folder in folders)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], int]:
    """The program in this process; how the tests' own process logs is left alone."""
    monkeypatch.setattr(app, "configure_logs", lambda *_: None)
    return app.main


def test_wrong_settings_end_it(
    main: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Off loopback without a decision, or a tokens file that is not there: exit code 2, and what is to be changed."""
    assert main(["--listen", "0.0.0.0:0"]) == 2
    assert re.search("not loopback.*--tokens.*--open-dashboard", capsys.readouterr().err)
    assert main(["--listen", "127.0.0.1:0", "--tokens", str(tmp_path / "none")]) == 2
    assert "--tokens" in capsys.readouterr().err


def test_a_taken_port_is_named(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, with the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["--listen", address]) == 1
    assert address in capsys.readouterr().err


def test_whatever_breaks_is_a_sentence_and_the_last_report_stays(tmp_path: Path) -> None:
    """No log, a file with mistakes, a log that cannot be read, an analysis that is killed, and at last all of it."""
    with prepared(tmp_path, "--refresh", "0.2", log=False) as running:
        wait_until(lambda: "no decision log" in running.ask("/").text, "the reason why there is no report", 180)
        assert running.ask("/api/report.json").status == 503
        write_log(tmp_path)
        assert running.report()["log"]["lines"] > 400
        (tmp_path / "experiments.yaml").write_text("version: 9\n")
        wait_until(lambda: "The experiments file has errors" in running.ask("/").text, "the mistake")
        broken = tmp_path / "logs" / "broken.parquet"
        broken.write_bytes(b"this is not parquet")
        wait_until(lambda: "cannot be read" in running.ask("/").text, "the reason why there is no newer report", 180)
        assert running.report()["log"]["lines"] > 400
        assert running.ask("/experiments/test").status == 200
        broken.unlink()
        parent = psutil.Process(running.process.popen.pid)
        (child,) = parent.children()
        child.kill()
        write_log(tmp_path, name="decisions-host-20261101T000000-2.jsonl", seed=2)
        wait_until(lambda: running.report()["log"]["lines"] > 800, "a report with the new lines", 180)
        (child,) = parent.children()
        folder = Path(child.environ()["TMPDIR"])
        assert folder.exists()
        running.process.kill()
        assert psutil.wait_procs([child], timeout=30)[1] == []
        assert not folder.exists()
        running.process.popen.returncode = 0  # it was killed on purpose
