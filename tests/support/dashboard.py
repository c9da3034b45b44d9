"""A real dashboard process for tests, at a random port, and what it answers. Nothing outlives the `with`."""

import http.client
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.fleet import Process, wait_until

REPORT_SECONDS = 180.0
"""The first report loads the libraries of the analysis, which takes a busy machine far longer than the report."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Dashboard:
    """One that runs; `process` is None where somebody else started it."""

    def __init__(self, address: str, process: Process | None = None) -> None:
        self._process = process
        self.address = address
        self.url = f"http://{address}"

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """One request, as it is: nothing is normalised, no redirect followed. `_` in a header's name is `-`."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.putrequest(method, path, skip_host="Host" in named, skip_accept_encoding=True)
            for name, value in named.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except ConnectionRefusedError as error:
            why = self._process.stderr_path.read_text()[-2000:] if self._process else ""
            raise AssertionError(f"it has ended: {why}") from error
        finally:
            connection.close()

    def report(self) -> dict[str, Any]:
        """The report, once there is one."""
        answer = wait_until(
            lambda: answer if (answer := self.ask("/api/report.json")).status == 200 else None,
            "a first report",
            REPORT_SECONDS,
        )
        document: dict[str, Any] = json.loads(answer.body)
        return document


@contextmanager
def dashboard(folder: Path, *flags: str, logs: Path | None = None, router: str = "off") -> Iterator[Dashboard]:
    """Starts one over `folder/logs` and `folder/experiments.yaml`; flags that are given come later, and win."""
    arguments: Sequence[str] = (
        *("--listen", "127.0.0.1:0", "--logs", str(logs or folder / "logs"), "--router-admin", router),
        *("--experiments", str(folder / "experiments.yaml"), "--registry", str(folder / "models"), *flags),
    )
    process = Process("dashboard", "abfleet_dashboard", arguments, folder)
    try:
        yield Dashboard(process.ready()[1], process)
    finally:
        code = process.stop()
    assert code == 0, process.stderr_path.read_text()[-2000:]
