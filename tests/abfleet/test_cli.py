"""The command `abfleet` itself: what it takes to begin, its help, its versions, and what it writes to."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from abfleet_process.standard_output import READER_GONE

from abfleet.cli import GROUPS, app
from tests.log.books import exposure, put

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"duckdb", "ibis", "numpy", "onnxruntime", "pandas", "pyarrow", "rich", "scipy", "structlog", "yaml"}
"""What a command that only calls a router has no use for."""
SERVING = {"grpc", "prometheus_client"}
NOT_UTF_8 = (
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
)


def environment(**more: str) -> dict[str, str]:
    """This process' environment without settings of abfleet and of a terminal, and with more."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("ABFLEET_", "COLUMNS"))} | more


def python(code: str, **more: str) -> "subprocess.CompletedProcess[bytes]":
    """Runs code in a fresh Python."""
    return subprocess.run(
        [sys.executable, "-c", code], timeout=120, capture_output=True, env=environment(**more), check=False
    )


def loaded_by(code: str) -> set[str]:
    """The top-level packages that a fresh Python has loaded after the code."""
    shown = "import sys; print('loaded', *sorted({name.partition('.')[0] for name in sys.modules}))"
    done = python(f"{code}\n{shown}")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.decode().splitlines()[-1].split())


def commands(command: object = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command."""
    command = typer.main.get_command(app) if command is None else command
    if not hasattr(command, "commands"):
        yield words
        return
    for name, inner in command.commands.items():
        yield from commands(inner, (*words, name))


def test_a_command_imports_what_it_needs_and_no_more() -> None:
    """Every command shares this start, `--help` and a shell's completion too, so it has no library but the parser."""
    loaded = loaded_by("import abfleet.cli")
    assert "typer" in loaded
    assert (HEAVY | SERVING) & loaded == set()


@pytest.mark.parametrize(
    "words", ["'status', '--admin', '127.0.0.1:1'", "'client', '--address', '127.0.0.1:1', '--timeout', '0.05'"]
)
def test_a_command_that_calls_a_router_imports_no_more_than_that(words: str) -> None:
    """`status` and `client` have gRPC; no database, no numpy, no model runtime, and nothing that draws tables, either
    where nobody answers."""
    code = f"from abfleet.cli import app\ntry: app([{words}])\nexcept SystemExit as end: assert end.code == 1, end.code"
    loaded = loaded_by(code)
    assert "grpc" in loaded
    assert HEAVY & loaded == set()


def test_help_is_in_groups_with_one_voice() -> None:
    """Each command stands under a heading and says in the imperative what it does, in a sentence with a full stop."""
    shown = python("from abfleet.cli import main; import sys; sys.argv[1:] = ['--help']; main()", COLUMNS="80")
    text = shown.stdout.decode()
    assert all(f" {title} " in text for title in GROUPS)
    group = typer.main.get_command(app)
    assert all(command.rich_help_panel in GROUPS for command in group.commands.values())  # type: ignore[attr-defined]
    for words in commands():
        command = group
        for word in words:
            command = command.commands[word]  # type: ignore[attr-defined]
        assert command.help is not None
        paragraphs = command.help.split("\n\n")
        assert not any("\n" in paragraph for paragraph in paragraphs), f"{words}: the terminal folds it, not the source"
        sentence = paragraphs[0]
        first = sentence.partition(" ")[0]
        assert re.fullmatch(r"[A-Z][a-z]+[^s ]", first), f"{words}: {sentence}"
        assert sentence.endswith("."), f"{words}: {sentence}"


@pytest.mark.parametrize("server", ["router", "worker", "dashboard"])
def test_servers_have_the_help_of_the_others(server: str) -> None:
    """Their flags stand in groups, with variables and defaults; a process without the command line shows the same."""
    shown = python(
        f"from abfleet.cli import main; import sys; sys.argv[1:] = ['{server}', '--help']; main()", COLUMNS="100"
    )
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout.decode()
    assert f"Usage: abfleet {server} [OPTIONS]" in text
    assert "ABFLEET_LISTEN" in text
    assert "default: 127.0.0.1:" in text
    plain = subprocess.run(
        [sys.executable, "-m", f"abfleet_{server}", "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    flags = set(re.findall(r"--[a-z0-9-]+", plain)) - {"--a-b"}  # of the sentence about variables
    assert flags <= set(re.findall(r"--[a-z0-9-]+", text))
    assert set(re.findall(r"^([A-Z][\w ,]+):$", plain, re.MULTILINE)) <= set(
        re.findall(r"^╭─ ([A-Z][\w ,]+) ─", text, re.MULTILINE)
    )


HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in {names} else found(name, *more)
"""


@pytest.mark.parametrize(
    ("words", "without", "extra"),
    [
        ([], "typer", "cli"),
        (["router"], "mmh3", "router"),
        (["worker"], "onnxruntime", "worker"),
        (["dashboard"], "uvicorn", "dashboard"),
        (["autopilot"], "duckdb", "autopilot"),
        (["simulate"], "numpy", "analysis"),
    ],
)
def test_what_is_not_installed_is_named(words: list[str], without: str, extra: str) -> None:
    """The wheel has its parts as extras: a command without its own says which, in a line and without a traceback."""
    code = HIDE.format(names={without}) + f"sys.argv[1:] = {words}\nfrom abfleet.__main__ import main\nmain()"
    shown = python(code)
    text = shown.stderr.decode()
    assert shown.returncode in (1, 2)
    assert f"needs {without}; run pip install 'abfleet[{extra}]'" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("server", ["router", "worker"])
def test_the_help_of_a_server_loads_no_server(server: str) -> None:
    """Its flags are declared without metrics, logging and tables, so help is there in a fraction of a second."""
    loaded = loaded_by(f"from abfleet_{server}.settings import declared; declared({{}})")
    assert (HEAVY | {"prometheus_client"}) & loaded == set()


def test_version_says_what_it_runs_on() -> None:
    """Its own version and form, the clone's commit, Python, and the libraries that a report of a fault needs."""
    shown = python("from abfleet.cli import main; import sys; sys.argv[1:] = ['--version']; main()")
    assert shown.returncode == 0
    pattern = r"abfleet \d+\.\d+\.\d+\S*( \([0-9a-f]{12}\))? (plain|compiled), Python 3\.\d+\.\d+, "
    pattern += r"grpcio [\d.]+, onnxruntime [\d.]+\n"
    assert re.fullmatch(pattern, shown.stdout.decode())


@pytest.mark.parametrize("setting", NOT_UTF_8)
def test_every_help_can_be_written_in_any_encoding(setting: dict[str, str]) -> None:
    """No command's help ends in an error where standard output is not UTF-8, nor has it another encoding's bytes."""
    code = f"""
import sys
from abfleet_process import standard_output
from abfleet.cli import app
standard_output.prepare()
for words in {[(), *commands()]}:
    try:
        app([*words, '--help'], prog_name='abfleet')
    except SystemExit as end:
        assert not end.code, words
"""
    shown = python(code, **setting)
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout.decode("ascii")
    assert text.count("Usage: abfleet") == len(list(commands())) + 1
    assert "╭" not in text


@pytest.mark.parametrize("setting", NOT_UTF_8)
def test_commands_write_their_results_in_any_encoding(setting: dict[str, str], tmp_path: Path) -> None:
    """Text has other letters as escapes; JSON says the same as ever."""
    put(tmp_path / "logs", [exposure(1, "ж–🎬")])
    for flags in ((), ("--json",)):
        words = ["logs", "tail", "--no-follow", "--logs", str(tmp_path / "logs"), *flags]
        done = python(f"from abfleet.cli import main; import sys; sys.argv[1:] = {words}; main()", **setting)
        assert done.returncode == 0, done.stderr
        line = done.stdout.decode("ascii")
        assert "\\u0436" in line
    assert json.loads(line)["user_id"] == "ж–🎬"


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("router", "--help"),
        ("logs", "schema"),
        ("logs", "tail", "--lines", "10000", "--no-follow", "--logs", "LOGS"),
        ("logs", "tail", "--lines", "10000", "--json", "--logs", "LOGS"),
        ("logs", "user", "user-1", "--logs", "LOGS"),
        ("logs", "check", "--logs", "LOGS"),
        ("validate", str(ROOT / "experiments" / "recommender.yaml")),
        ("plan", *[str(ROOT / "experiments" / "recommender.yaml")] * 2),
        ("explain", "user-1", "--experiments", str(ROOT / "experiments" / "recommender.yaml")),
        ("assign", "--experiments", str(ROOT / "experiments" / "recommender.yaml")),
        ("models", "list", "--registry", str(ROOT / "models")),
        ("token", "new", "--name", "shop"),
        ("status", "--json", "--admin", "127.0.0.1:1"),
    ],
)
def test_a_reader_that_ends_ends_a_command_quietly(words: tuple[str, ...], tmp_path: Path) -> None:
    """Where whoever reads has gone, as after `| head`, the exit code is a pipe's, and nothing is said of it."""
    put(tmp_path, [exposure(number, "user-1") for number in range(2000)])
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "abfleet", *(str(tmp_path) if word == "LOGS" else word for word in words)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=writes, stderr=subprocess.PIPE, timeout=60, env=environment()
        )
    finally:
        os.close(writes)
    if words[0] == "status":  # it has nothing to print: the reader does not matter
        assert done.returncode == 1
        return
    assert (done.returncode, done.stderr.decode()) == (READER_GONE, "")
