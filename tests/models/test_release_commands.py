"""`abfleet models promote | rollback | archive | restore | add | diff`: what they do, print and refuse."""

import json
from pathlib import Path

import pytest
from abfleet_models.registry import Registry
from onnx import TensorProto
from typer.testing import CliRunner, Result

from abfleet.cli import app
from tests.analysis.log_lines import LogLines
from tests.models.forge import edit_json
from tests.support import small_graphs
from tests.support.tiny_model import add_version


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without an experiments file: which versions it names is asked only where a test says so."""
    monkeypatch.chdir(tmp_path)


def abfleet(*arguments: str | Path) -> Result:
    """Runs `abfleet models …` in this process."""
    return CliRunner().invoke(app, ["models", *map(str, arguments)])


def test_a_release_and_its_way_back(root: Path) -> None:
    """promote twice, rollback, archive, restore: each says in a line what it did, and the registry verifies."""
    flags = ("--registry", root)
    for words, said in (
        (("promote", "v1.4.0-rc1"), "production now points to v1.4.0-rc1 (before: v1.2.3)"),
        (("promote", "v1.4.0-rc1"), "production already points to v1.4.0-rc1"),
        (("rollback",), "production now points to v1.2.3 (before: v1.4.0-rc1)"),
        (("promote", "v1.4.0-rc1", "--to", "staging"), "staging now points to v1.4.0-rc1 (before: v1.3.0-beta)"),
        (("rollback", "--of", "staging"), "staging now points to v1.3.0-beta (before: v1.4.0-rc1)"),
        (("archive", "v1.4.0-rc1"), "v1.4.0-rc1 is archived"),
        (("restore", "v1.4.0-rc1"), "v1.4.0-rc1 is restored"),
    ):
        result = abfleet(*words, *flags)
        assert (result.exit_code, result.output.strip()) == (0, said)
    assert abfleet("verify", *flags).exit_code == 0


def test_json_has_the_event(root: Path) -> None:
    """--json prints the line of the trail, with who and why."""
    result = abfleet("promote", "staging", "--registry", root, "--json", "--by", "ada", "--reason", "won")
    event = json.loads(result.output)["event"]
    assert (event["version"], event["was"], event["by"], event["reason"]) == ("v1.3.0-beta", "v1.2.3", "ada", "won")
    assert json.loads((root / "registry.json").read_text())["log"][-1] == event


def test_what_was_left_undone_is_finished_and_told(root: Path) -> None:
    """A command that finds a journal brings that release to its end first, and says so."""
    event = {"at": "2026-11-23T12:00:00Z", "event": "promoted", "version": "v1.4.0-rc1", "sha256": "0" * 64}
    journal = {"schema": 1, "event": event | {"alias": "staging", "was": "v1.3.0-beta"}, "entry": None}
    (root / ".release.json").write_text(json.dumps(journal))
    result = abfleet("promote", "v1.3.0-beta", "--registry", root)
    assert result.exit_code == 0
    assert "first finished an interrupted release: staging now points to v1.4.0-rc1" in result.output
    assert Registry(root).aliases() == {"production": "v1.3.0-beta", "staging": "v1.4.0-rc1"}


def test_a_broken_version_is_not_promoted(root: Path) -> None:
    """A file that changed, and an answer that is another one: exit code 1, the reason, and the alias stays."""
    edit_json(root / "v1.4.0-rc1" / "metadata.json", lambda data: data["golden"]["item_ids"][1].reverse())
    with (root / "v1.3.0-beta" / "model.onnx").open("ab") as model:
        model.write(b"x")
    for version, words in (("v1.4.0-rc1", "golden history 1"), ("v1.3.0-beta", "sha256")):
        result = abfleet("promote", version, "--registry", root)
        assert result.exit_code == 1
        assert words in result.stderr
    assert Registry(root).aliases()["production"] == "v1.2.3"


def test_what_an_experiment_needs_is_not_archived(root: Path, tmp_path: Path) -> None:
    """A version that the experiments file names stays, unless it is forced."""
    file = tmp_path / "experiments.yaml"
    file.write_text(
        'version: 1\ndefault: v1.2.3\nmodels:\n  v1.2.3: {target: "127.0.0.1:1"}\n'
        '  v1.4.0-rc1: {target: "127.0.0.1:2"}\n'
    )
    words = ("archive", "v1.4.0-rc1", "--registry", root, "--experiments", file)
    refused = abfleet(*words)
    assert refused.exit_code == 1
    assert "is in `models` of" in refused.stderr
    assert "v1.4.0-rc1" in Registry(root).versions()
    assert abfleet(*words, "--force").exit_code == 0
    assert "v1.4.0-rc1" in Registry(root).archived_versions()


def test_a_model_of_ones_own_is_added_and_promoted(root: Path, tmp_path: Path) -> None:
    """A folder with a graph and little metadata becomes a version that verifies, with its times in registry.json."""
    folder = add_version(tmp_path / "own", "v7", k=10)
    edit_json(
        folder / "metadata.json", lambda data: [data.pop(k) for k in ("schema", "sha256", "size_bytes", "golden")]
    )
    result = abfleet("add", folder, "--registry", root, "--json")
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.output)["latency_us"]) == {"1x20", "32x20"}
    assert abfleet("promote", "v7", "--registry", root).exit_code == 0
    assert abfleet("verify", "--registry", root).exit_code == 0
    again = abfleet("add", folder, "--registry", root)
    assert again.exit_code == 1
    assert "is already in the registry" in again.stderr


def test_an_example_is_written_and_added(root: Path, tmp_path: Path) -> None:
    """`init` writes a folder that `add` takes as it is, and no folder twice; `add` says what it found."""
    folder = tmp_path / "mine"
    assert abfleet("init", folder, "--version", "v8").exit_code == 0
    again = abfleet("init", folder)
    assert (again.exit_code, "already exists" in again.stderr) == (1, True)
    found = abfleet("add", folder, "--registry", root)
    assert found.exit_code == 0, found.output
    said = "v8 is a model of tensors: it takes features FP32[-1, 4] and gives score FP32[-1, 1]"
    assert said in found.output
    assert "latency 32 together: " in found.output
    assert abfleet("verify", "--registry", root).exit_code == 0
    more = abfleet("add", folder / "model.onnx", "--version", "v9", "--no-batch", "--registry", root, "--json")
    assert "requests are not joined into one run: --no-batch" in json.loads(more.output)["found"]
    assert json.loads((root / "v9" / "metadata.json").read_text())["training"] == {"name": "not given"}
    compared = abfleet("diff", "v8", "v9", "--registry", root).output
    assert "equal answers\t\t\t10 of 10 golden cases" in compared
    assert "signature.batch\ttrue\tfalse" in compared
    other = abfleet("diff", "v8", "production", "--registry", root)
    assert "the versions differ in their tensors" in other.output
    assert abfleet("promote", "v8", "--registry", root).exit_code == 0


def test_a_model_file_is_renamed_and_cast_on_its_way(root: Path, tmp_path: Path) -> None:
    """The options that a refusal offers, given as it offers them."""
    file = tmp_path / "model.onnx"
    file.write_bytes(small_graphs.recommender(history="items", history_type=TensorProto.INT32))
    words = ("add", file, "--version", "v8", "--registry", root, "--kind", "recommender")
    refused = abfleet(*words)
    assert refused.exit_code == 1
    options = refused.stderr.strip().partition("Add it with ")[2].split()
    assert options == ["--rename", "items=history", "--cast"]
    found = abfleet(*words, *options)
    assert found.exit_code == 0, found.output
    assert "renamed items to history" in found.output
    assert "cast history int32 as int64" in found.output


def test_diff_shows_what_differs(root: Path) -> None:
    """For people a row a difference; as JSON everything, each answer included."""
    result = abfleet("diff", "v1.2.2", "production", "--registry", root)
    assert result.exit_code == 0
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in result.output.splitlines()}
    assert rows["model.algorithm"] == ["popularity", "item-cosine", ""]
    assert {"recall@10", "size_bytes", "latency 1x20 (us a request)", "answers: same first item"} <= rows.keys()
    found = json.loads(abfleet("diff", "v1.2.2", "production", "--registry", root, "--json").output)
    assert (found["a"], found["b"]) == ("v1.2.2", "v1.2.3")
    assert 0 <= found["answers"]["overlap"] <= 1
    assert all(len(one["a"]) <= 10 for one in found["answers"]["histories"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("promote", "v9"), 2, "'v9' is not in the registry"),
        (("promote", "../v9"), 2, "is not a version or an alias"),
        (("promote", "v1.2.3", "--to", "best"), 1, "allowed: production, staging"),
        (("promote", "v1.2.3", "--reason", "x" * 501), 1, "allowed: 500 characters"),
        (("rollback",), 1, "has no version before it"),
        (("archive", "v1.2.3"), 1, "because production points to it"),
        (("restore", "v9"), 2, "is not in the archive"),
        (("add", "nowhere", "--kind", "ranker"), 2, "--kind 'ranker' is not a kind; allowed: recommender, tensors"),
        (("add", "nowhere", "--rename", "items"), 2, "--rename 'items' is not OLD=NEW"),
        (("init", "v8", "--version", "../v8"), 1, "--version: '../v8' is not a version"),
        (("add", "nowhere"), 1, "'nowhere' does not exist"),
        (("diff", "production", "v9"), 2, "'v9' is not in the registry"),
    ],
)
def test_what_is_wrong_is_one_line(root: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    """An unknown name is a usage mistake and exits 2, a release that may not be exits 1; never a traceback."""
    result = abfleet(*arguments, *(() if arguments[0] == "init" else ("--registry", root)))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["promote", "rollback", "archive", "restore", "add", "init", "diff"])
def test_help_has_an_example(command: str) -> None:
    """Each command's help ends with a line that can be copied."""
    result = abfleet(command, "--help")
    assert result.exit_code == 0
    assert f"Example: abfleet models {command}" in " ".join(result.output.split())


def test_a_version_that_the_shadow_has_not_seen_is_not_promoted(root: Path, tmp_path: Path) -> None:
    """--require-shadow asks the log how many requests it was compared on, whatever the name that it is promoted by."""
    log = LogLines()
    for number in range(3):
        request = log.exposure(f"u{number}", "control")
        log.shadow(request, f"u{number}", [1], version="v1.3.0-beta")
    logs = tmp_path / "logs"
    logs.mkdir()
    flags = ("--registry", root, "--logs", log.write(logs), "--require-shadow")
    refused = abfleet("promote", "staging", *flags, "4")
    assert refused.exit_code == 1
    assert "--require-shadow: v1.3.0-beta was compared on 3 requests, allowed: 4 or more" in refused.output
    assert Registry(root).aliases()["production"] == "v1.2.3"
    assert abfleet("promote", "v1.4.0-rc1", *flags, "1").exit_code == 1
    assert abfleet("promote", "staging", *flags, "3").exit_code == 0
    assert Registry(root).aliases()["production"] == "v1.3.0-beta"
    assert abfleet("promote", "v1.4.0-rc1", "--registry", root).exit_code == 0, "asked of those alone who want it"
