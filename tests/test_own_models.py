"""docs/own-models.md, done from top to bottom: a model is made, added, served alone, and asked as the page does."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.oip_tools import triton_python
from tests.worker.worker_process import WorkerProcess, running_worker

pytestmark = pytest.mark.system
ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "own-models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SECONDS = 120


def block(language: str, mark: str) -> str:
    """The one block in `language` that has `mark` in it."""
    (found,) = [text for of, text in BLOCKS if of == language and mark in text]
    return found


@dataclass(frozen=True, slots=True)
class Served:
    """A worker as the page starts it, and what was printed before."""

    worker: WorkerProcess
    added: str

    def python(self, mark: str, interpreter: Path) -> str:
        """Runs a Python block of the page against this worker."""
        text = block("python", mark).replace("127.0.0.1:50061", self.worker.address)
        done = subprocess.run([interpreter, "-c", text], capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page's commands, and its worker on a free port."""
    folder = tmp_path_factory.mktemp("own")
    tools = folder / "bin"
    tools.mkdir()
    abfleet = tools / "abfleet"
    abfleet.write_text(f'#!/bin/sh\nexec {sys.executable} -m abfleet "$@"\n')
    abfleet.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-euc", block("sh", "models init")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    words = block("sh", "abfleet worker").split()
    assert words[:4] == ["abfleet", "worker", "--registry", "my-models"]
    version = words[words.index("--version") + 1]
    with running_worker(folder, folder / "my-models", "--version", version) as worker:
        yield Served(worker, done.stdout)


def test_add_says_what_the_page_says(served: Served) -> None:
    """Line by line, but for the times."""
    wanted = [line for line in block("", "v0.2.0 is added").splitlines() if not line.startswith("latency")]
    assert "\n".join(wanted) in served.added


def test_the_client_of_ours_gets_an_answer(served: Served) -> None:
    """The second block of Python."""
    assert served.python("GRPCInferenceServiceStub", Path(sys.executable)) == "[4.375 1.   ]\n"


def test_tritons_client_gets_the_same(served: Served) -> None:
    """The first block of Python."""
    assert served.python("tritonclient", triton_python()) == "[4.375 1.   ]\n"
