"""docs/python-client.md, done from top to bottom: each block runs as it stands, in an environment of its own.

What is replaced: the address; that pip fetches nothing; and certificates, which the page names, by ones made here.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority, needs_openssl
from tests.support.fleet import VERSIONS, Fleet, experiments_file
from tests.support.process import ROOT

pytestmark = pytest.mark.system

PAGE = (ROOT / "docs" / "python-client.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MARKS = ("pip install", "answer.scores", "Tensor.of", "flush", "asyncio.run", "ClientCredentials", "CallFailed")
OUTSIDE = f"import abfleet_client; assert not abfleet_client.__file__.startswith({str(ROOT)!r})"
SECONDS = 120


def block(mark: str) -> str:
    """The one block that has `mark` in it."""
    (found,) = [text for _, text in BLOCKS if mark in text]
    return found


def test_every_block_is_tried() -> None:
    """No block of the page is left out below."""
    assert len(BLOCKS) == len(MARKS)
    assert len({block(mark) for mark in MARKS}) == len(BLOCKS)


def run(*command: str | Path, cwd: Path) -> str:
    """What a program prints; a failure shows all that it said."""
    done = subprocess.run(command, cwd=cwd, env={}, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that the page's own command installs the client into; its requirements are those of this one."""
    folder = tmp_path_factory.mktemp("service") / "venv"
    run(sys.executable, "-m", "venv", folder, cwd=ROOT)
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    here, there = (run(one, "-c", purelib, cwd=ROOT).strip() for one in (sys.executable, folder / "bin" / "python"))
    (Path(there) / "dependencies.pth").write_text(f"{here}\n")  # which does not read the .pth files there
    program, *words = block("pip install").split()
    offline = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    run(folder / "bin" / program, *words, *offline, cwd=ROOT)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The models that ship."""
    with Fleet(tmp_path_factory.mktemp("fleet"), experiments=experiments_file()) as running:
        for version in VERSIONS:
            running.wait_for_serving(version)
        yield running


def done(python: Path, fleet: Fleet, mark: str) -> str:
    """What a block of the page prints."""
    return printed(python, fleet, block(mark))


def printed(python: Path, fleet: Fleet, code: str) -> str:
    """What code prints in that environment; it imports nothing of this checkout."""
    code = code.replace("localhost:50051", fleet.address).replace("timeout=0.5", f"timeout={SECONDS}")
    return run(python, "-c", f"{code}\n{OUTSIDE}", cwd=fleet.folder)


def test_recommend(python: Path, fleet: Fleet) -> None:
    """Five items and their scores; version, experiment and group."""
    items, about = done(python, fleet, "answer.scores").splitlines()
    assert len(re.findall(r"[\d.]+", items)) == 10
    assert about.startswith("v1.3.0-beta homepage-ranking experiment ")


def test_infer(python: Path, fleet: Fleet) -> None:
    """The answer of the user's version, as a tensor."""
    assert done(python, fleet, "Tensor.of").startswith("v1.3.0-beta FP32 (1, ")


def test_record(python: Path, fleet: Fleet) -> None:
    """Both outcomes are accepted, and in the log."""
    assert "accepted=2" in done(python, fleet, "flush")
    told = [(line["type"], line["value"], line["currency"]) for line in fleet.log() if line["event"] == "outcome"]
    assert ("purchase", 12.5, "EUR") in told
    assert ("click", None, None) in told


def test_asyncio(python: Path, fleet: Fleet) -> None:
    """Ten answers, and a click for each."""
    assert done(python, fleet, "asyncio.run") == "10 answers\n"
    clicks = {line["user_id"] for line in fleet.log() if line["event"] == "outcome" and line["type"] == "click"}
    assert {f"user-{number}" for number in range(10)} <= clicks


@needs_openssl
def test_credentials(python: Path, fleet: Fleet) -> None:
    """The files that it names are read when it connects."""
    Authority(fleet.folder / "certs")
    (fleet.folder / "token").write_text("a-token\n")
    done(python, fleet, "ClientCredentials")


def test_errors(python: Path, fleet: Fleet) -> None:
    """Both name field, value and what is allowed."""
    here, there = done(python, fleet, "CallFailed").splitlines()
    assert here.startswith("items: [1, 'red'] is not allowed; allowed: ")
    assert there.startswith("INVALID_ARGUMENT user_id: 'xxx")
    assert "allowed: 1 to 256 bytes" in there


def test_the_words_on_the_index_are_true(python: Path, fleet: Fleet) -> None:
    """The block of the distribution's own README runs too."""
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "protos" / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert printed(python, fleet, code) == ""
