"""The `run` script: what it says, what it sets up, and when. Knows no command's own work: tools are recorded stand-ins,
except in the test that installs with the real pip."""

import base64
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120
COMMANDS = (
    "up",
    "test",
    "check",
    "lint",
    "protos",
    "schema",
    "glossary",
    "reference",
    "docs",
    "wheels",
    "lock",
    "bench",
    "prove",
    "chaos",
    "audit",
    "test-compose",
    "node-tools",
    "oip-tools",
    "guides-tools",
    "torch-tools",
    "oip-servers",
    "setup",
)
# Everything that the script calls besides Python and the installer; a PATH of these alone is a bare machine.
PROGRAMS = ("sh", "basename", "cat", "cksum", "cmp", "dirname", "mkdir", "mktemp", "rm", "tr")

FAKE_UV = """#!/bin/sh
case $1 in --version) exit 0 ;; esac
printf '%s\\n' "$*" >>"$UV_LOG"
echo 'Downloading a large package'
[ ! -p "${UV_GATE:-}" ] || cat "$UV_GATE"
exit "${UV_EXIT:-0}"
"""


class Checkout:
    """A folder with the real `run`, small stand-ins for the project, and a PATH of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a checkout"  # a space, which people have in their paths
        self.bin = folder / "bin"
        self.uv_log = folder / "uv.log"
        self.started: list[subprocess.Popen[str]] = []
        self.folder.mkdir()
        self.bin.mkdir()
        shutil.copy2(ROOT / "run", self.folder / "run")
        (self.folder / "protos").mkdir()
        for name in ("requirements.lock", "requirements-dev.lock", "pyproject.toml", "protos/pyproject.toml"):
            (self.folder / name).write_text(f"# {name}\n")
        for name in PROGRAMS:
            program = shutil.which(name)
            assert program is not None
            (self.bin / name).symlink_to(program)
        self.program("uv", FAKE_UV)
        self.program("python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')

    def program(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        return {"PATH": str(self.bin), "HOME": str(self.folder.parent), "UV_LOG": str(self.uv_log), **extra}

    def start(self, *arguments: str, **extra: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [str(self.folder / "run"), *arguments],
            env=self.environment(extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def close(self) -> None:
        """Ends what a failed test left running, with its children."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def run(self, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.folder / "run"), *arguments],
            env=self.environment(extra),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def installs(self) -> int:
        """How often the installer was asked to install: twice for one setup (the lock, then the project)."""
        return len(self.uv_log.read_text().splitlines()) if self.uv_log.exists() else 0


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    made = Checkout(tmp_path)
    yield made
    made.close()


def test_alone_it_lists_every_command(checkout: Checkout) -> None:
    """`./run` says what it can do, and needs neither Python nor a setup for that."""
    (checkout.bin / "python3").unlink()
    done = checkout.run()
    assert done.returncode == 0
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)
    assert checkout.installs() == 0


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (("up", "--log-dir", "two words"), ["up", "--log-dir", "two words"]),
        (("status", "--json"), ["status", "--json"]),
        (("--version",), ["--version"]),
        (("abfleet", "--help"), ["--help"]),
        (("abfleet",), []),
    ],
)
def test_any_other_word_is_a_command_of_abfleet(checkout: Checkout, words: Sequence[str], given: list[str]) -> None:
    """What the script does not have is abfleet's, with all its arguments, in the same process; what
    the fleet needs is installed for it, and nothing for development."""
    command = checkout.folder / ".venv" / "bin" / "abfleet"
    assert checkout.run("status").returncode != 0  # the stand-in project has no such program; the setup is done
    assert "requirements.lock" in checkout.uv_log.read_text()
    assert "requirements-dev.lock" not in checkout.uv_log.read_text()
    command.write_text('#!/bin/sh\necho "$$"\nfor argument in "$@"; do echo "$argument"; done\n')
    command.chmod(0o755)
    process = checkout.start(*words)
    out, _ = process.communicate(timeout=SECONDS)
    assert out.splitlines() == [str(process.pid), *given]


def test_an_install_is_never_silent_for_long(checkout: Checkout) -> None:
    """While the installer works there is a line within two seconds: time, packages that are there, its last word. There
    is none once the install has ended."""
    gate = checkout.folder.parent / "gate"
    os.mkfifo(gate)
    (checkout.folder / "requirements.lock").write_text(
        "one==1 \\\n    --hash=sha256:00\ntwo==2 \\\n    --hash=sha256:00\n"
    )
    process = checkout.start("up", UV_GATE=str(gate))
    assert process.stderr is not None
    with gate.open("w"):  # opens when the installer reads: it is at work
        gate.unlink()
        lines = iter(process.stderr.readline, "")
        said = next(line for line in lines if "packages" in line)
        assert re.fullmatch(r"run: \d+ s, 0 of 2 packages  Downloading a large package\n", said)
    assert process.wait(SECONDS) != 0  # the stand-in project has no abfleet
    assert not [line for line in process.stderr if "packages" in line]


OLD_PYTHON = "#!/bin/sh\ncase $2 in *version_info*'<'*) exit 1 ;; *print*) echo 3.9 ;; esac\n"


@pytest.mark.parametrize("command", ["up", "test", "check"])
def test_too_old_python_is_one_line_with_the_remedy(checkout: Checkout, command: str) -> None:
    """With no Python that is new enough on PATH, it says which one it found and what to do, and touches nothing."""
    checkout.program("python3", OLD_PYTHON)
    done = checkout.run(command)
    assert done.returncode == 2
    assert done.stderr == "run: needs Python 3.11 or newer, found 3.9; install one, or set PYTHON to it\n"
    assert not (checkout.folder / ".venv").exists()


def test_no_python_is_one_line_with_the_remedy(checkout: Checkout) -> None:
    """Without any Python the line says `none`."""
    (checkout.bin / "python3").unlink()
    done = checkout.run("up")
    assert done.returncode == 2
    assert done.stderr == "run: needs Python 3.11 or newer, found none; install one, or set PYTHON to it\n"


def test_the_python_that_was_asked_for_is_not_replaced(checkout: Checkout) -> None:
    """PYTHON that is too old is refused, although a good python3 is on PATH."""
    old = checkout.program("ancient", OLD_PYTHON)
    done = checkout.run("up", PYTHON=str(old))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"run: PYTHON={old} is Python 3.9; set PYTHON to a Python 3.11 or newer",
    ]


@pytest.mark.parametrize(("installer", "missing"), [("pip", "ensurepip"), ("uv", "import venv")])
def test_missing_venv_module_is_one_line_with_the_remedy(checkout: Checkout, installer: str, missing: str) -> None:
    """A Python without what an environment needs (Debian's, without python3-venv) gets the package's name."""
    checkout.program(
        "python3", f'#!/bin/sh\ncase "$*" in *"{missing}"*) exit 1 ;; esac\nexec "{sys.executable}" "$@"\n'
    )
    done = checkout.run("up", ABFLEET_INSTALLER=installer)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "has no venv module" in done.stderr
    assert f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in done.stderr


def test_unknown_installer_is_refused(checkout: Checkout) -> None:
    """ABFLEET_INSTALLER names the two that are allowed."""
    done = checkout.run("setup", ABFLEET_INSTALLER="conda")
    assert done.returncode == 2
    assert done.stderr == "run: ABFLEET_INSTALLER=conda is not known; allowed: pip, uv\n"


def test_the_second_time_nothing_is_installed(checkout: Checkout) -> None:
    """A setup that is in force is left alone, silently; a change of a lock or of pyproject.toml renews it."""
    first = checkout.run("setup")
    assert first.returncode == 0, first.stderr
    assert checkout.installs() == 2
    second = checkout.run("setup")
    assert (second.returncode, second.stderr, checkout.installs()) == (0, "", 2)
    for name, installs in (("requirements-dev.lock", 4), ("pyproject.toml", 6), ("requirements.lock", 6)):
        (checkout.folder / name).write_text("# changed\n")
        assert checkout.run("setup").returncode == 0
        assert checkout.installs() == installs, name


def test_what_the_fleet_needs_is_in_what_development_needs(checkout: Checkout) -> None:
    """After a development setup `up` installs nothing; after `up`, a development setup still installs its own."""
    assert checkout.run("up").returncode != 0  # the stand-in project has no abfleet command; the setup is done
    assert checkout.installs() == 2
    assert "requirements.lock" in checkout.uv_log.read_text()
    assert checkout.run("setup").returncode == 0
    assert checkout.installs() == 4
    assert checkout.run("up").returncode != 0
    assert checkout.installs() == 4


def test_a_failed_install_is_not_taken_for_a_setup(checkout: Checkout) -> None:
    """When the installer fails, so does the command, and the next one tries again."""
    assert checkout.run("setup", UV_EXIT="1").returncode != 0
    again = checkout.run("setup")
    assert again.returncode == 0
    assert checkout.installs() == 1 + 2


def test_concurrent_commands_set_up_once(checkout: Checkout) -> None:
    """A second command waits for a setup that is under way, says so, and finds it done."""
    gate = checkout.folder.parent / "gate"
    os.mkfifo(gate)
    first = checkout.start("setup", UV_GATE=str(gate))
    with gate.open("w"):  # opens when the first installer reads: the setup is under way
        second = checkout.start("setup")
        assert second.stderr is not None
        assert second.stderr.readline() == "run: another ./run is setting up; waiting for it\n"
        gate.unlink()  # what the first one installs next does not wait
    assert first.wait(SECONDS) == 0
    assert second.wait(SECONDS) == 0
    assert checkout.installs() == 2


def test_a_killed_setup_blocks_nobody(checkout: Checkout) -> None:
    """The lock ends with the processes that hold it, whatever ended them."""
    gate = checkout.folder.parent / "gate"
    os.mkfifo(gate)
    first = checkout.start("setup", UV_GATE=str(gate))
    with gate.open("w"):
        first.kill()
    first.communicate(timeout=SECONDS)
    done = checkout.run("setup")
    assert done.returncode == 0
    assert (checkout.folder / ".venv" / ".ready-dev").exists()


def test_a_moved_checkout_is_set_up_again(checkout: Checkout) -> None:
    """Scripts in an environment carry its path: a renamed folder gets a new one."""
    assert checkout.run("setup").returncode == 0
    left_behind = checkout.folder / ".venv" / "left-behind"
    left_behind.touch()
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("elsewhere"))
    assert checkout.run("setup").returncode == 0
    assert not (checkout.folder / ".venv" / "left-behind").exists()


def test_check_runs_every_check(checkout: Checkout) -> None:
    """A check that finds something does not hide what the next ones find; the end names those that did."""
    assert checkout.run("setup").returncode == 0
    seen = checkout.folder / "seen"
    for name, code in (("ruff", 1), ("mypy", 0), ("lint-imports", 1)):
        tool = checkout.folder / ".venv" / "bin" / name
        tool.write_text(f'#!/bin/sh\necho "{name} $1" >>"{seen}"\nexit {code}\n')
        tool.chmod(0o755)
    done = checkout.run("check")
    assert done.returncode == 1
    assert seen.read_text().split("\n") == ["ruff check", "ruff format", "mypy ", "lint-imports --no-logo", ""]
    assert done.stderr.splitlines()[-1] == "run: found something: lint format imports circles generated"
    assert checkout.run("lint").stderr == "run: found something: lint format\n"


def test_test_alone_runs_everything_two_at_a_time(checkout: Checkout) -> None:
    """`./run test` hands pytest what keeps a file's tests together; with arguments it hands over those alone."""
    assert checkout.run("setup").returncode == 0
    package = checkout.folder / "pytest.py"
    package.write_text("import sys; print(*sys.argv[1:], sep='|')")
    assert checkout.run("test").stdout == "-n|3|--dist|loadfile\n"
    assert checkout.run("test", "tests/a b.py", "-k", "x or y").stdout == "tests/a b.py|-k|x or y\n"


def test_bytecode_is_kept_and_not_among_the_sources(checkout: Checkout) -> None:
    """Where the environment forbids bytecode, commands keep it in .cache; else they leave Python as it is."""
    assert checkout.run("setup").returncode == 0
    names = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
    (checkout.folder / "pytest.py").write_text(f"import os; print(*(os.environ.get(name) for name in {names}))")
    assert checkout.run("test").stdout == "None None\n"
    kept = checkout.run("test", PYTHONDONTWRITEBYTECODE="1").stdout
    assert kept == f"None {checkout.folder.resolve()}/.cache/bytecode\n"


@pytest.mark.parametrize("forbidden", ["", "1"])
def test_libraries_are_compiled_where_nobody_else_may(checkout: Checkout, forbidden: str) -> None:
    """Beside themselves, for commands that are started without the script; elsewhere Python does it when it must."""
    (checkout.folder / "duckdb.py").touch()
    assert checkout.run("setup", PYTHONDONTWRITEBYTECODE=forbidden).returncode == 0
    compiled = list(checkout.folder.glob("__pycache__/duckdb.*.pyc"))
    assert len(compiled) == bool(forbidden)


def test_prove_lists_and_refuses(checkout: Checkout) -> None:
    """`./run prove` lists the proofs there are; a name that is none of them, or that is a path, is refused."""
    proofs = checkout.folder / "tests" / "proofs"
    proofs.mkdir(parents=True)
    (proofs / "fuzz.py").touch()
    (proofs / "__init__.py").touch()
    assert checkout.run("prove").stdout == "fuzz\n"
    for name in ("chaos", "../fuzz"):
        done = checkout.run("prove", name)
        assert done.returncode == 2
        assert f"'{name}'" in done.stderr


BACKEND = """
import zipfile


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "standin-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{wheel_directory}/{name}", "w") as wheel:
        wheel.writestr("standin-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: standin\\nVersion: 1\\n")
        wheel.writestr("standin-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("standin-1.dist-info/RECORD", "")
    return name
"""


def tiny_wheel(folder: Path) -> str:
    """Writes tiny-1 as a wheel; returns its sha256 in hex."""
    metadata = "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n"
    files = {
        "tiny.py": "",
        "tiny-1.dist-info/METADATA": metadata,
        "tiny-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},\n"
        for name, text in files.items()
    )
    path = folder / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {**files, "tiny-1.dist-info/RECORD": record}.items():
            wheel.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.system
def test_plain_pip_installs_the_lock_and_checks_its_hashes(checkout: Checkout, tmp_path: Path) -> None:
    """Without uv the environment is made by venv, ensurepip and pip alone; a wheel that is not the pinned one is
    refused."""
    (checkout.bin / "uv").unlink()
    digest = tiny_wheel(tmp_path)
    for folder, name in ((checkout.folder, "standin"), (checkout.folder / "protos", "client")):
        (folder / "backend.py").write_text(BACKEND.replace("standin", name))
        (folder / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        )
    offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}

    (checkout.folder / "requirements-dev.lock").write_text(f"tiny==1 --hash=sha256:{'0' * 64}\n")
    refused = checkout.run("setup", **offline)
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr

    (checkout.folder / "requirements-dev.lock").write_text(f"tiny==1 --hash=sha256:{digest}\n")
    done = checkout.run("setup", **offline)
    assert done.returncode == 0, done.stderr
    python = checkout.folder / ".venv" / "bin" / "python"
    code = "import tiny, importlib.metadata as m; print(int(m.version('standin')) * int(m.version('client')))"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
