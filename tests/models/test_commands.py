"""`abfleet models train | list | verify`: what they print, and the exit codes 0, 1 and 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from abfleet.cli import app
from tests.models.conftest import COMMITTED


def abfleet(*arguments: str | Path) -> Result:
    """Runs `abfleet models …` in this process."""
    return CliRunner().invoke(app, ["models", *map(str, arguments)])


def test_list_shows_versions_aliases_and_metrics() -> None:
    """One line a version, with where its aliases lead and its offline metrics."""
    result = abfleet("list", "--registry", COMMITTED)
    assert result.exit_code == 0
    rows = {line.split("\t")[0]: line.split("\t") for line in result.output.splitlines()}
    assert list(rows) == ["v1.2.3", "v1.3.0-beta", "v1.4.0-rc1", "v1.2.2"]
    assert rows["v1.2.3"][1:3] == ["production", "item-cosine"]
    assert rows["v1.2.2"][1] == "archived"


def test_list_as_json_has_what_the_files_say() -> None:
    """--json prints one object with every version in full."""
    result = abfleet("list", "--json", "--registry", COMMITTED)
    models = {model["version"]: model for model in json.loads(result.output)["models"]}
    committed = json.loads((COMMITTED / "v1.4.0-rc1" / "metrics.json").read_text())
    assert models["v1.4.0-rc1"]["metrics"] == committed["metrics"]
    assert models["v1.3.0-beta"]["aliases"] == ["staging"]
    assert models["v1.2.2"]["archived"] is True
    assert all(model["error"] is None for model in models.values())


def test_list_goes_on_after_a_broken_version(root: Path) -> None:
    """A version that cannot be read is shown with its error, the others as usual, and the exit code is 1."""
    (root / "v1.3.0-beta" / "metadata.json").write_text("{}")
    result = abfleet("list", "--json", "--registry", root)
    assert result.exit_code == 1
    models = {model["version"]: model for model in json.loads(result.output)["models"]}
    assert "sha256: is missing" in models["v1.3.0-beta"]["error"]
    assert models["v1.2.3"]["error"] is None


def test_the_registry_comes_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ABFLEET_REGISTRY stands in for --registry."""
    monkeypatch.setenv("ABFLEET_REGISTRY", str(root))
    assert json.loads(abfleet("list", "--json").output)["registry"] == str(root)


@pytest.mark.parametrize("name", ["production", "v1.2.3", "v1.2.2"])
def test_verify_takes_versions_aliases_and_archived_ones(root: Path, name: str) -> None:
    """One name, one line, exit code 0."""
    result = abfleet("verify", name, "--registry", root)
    assert result.exit_code == 0, result.output
    assert result.output.split("\t")[1] == "ok"


def test_verify_finds_what_is_wrong_and_checks_the_rest(root: Path) -> None:
    """A corrupted model fails alone, with exit code 1; asking for a good one still succeeds."""
    path = root / "v1.3.0-beta" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    result = abfleet("verify", "--json", "--registry", root)
    assert result.exit_code == 1
    verdicts = {one["version"]: one for one in json.loads(result.output)["results"]}
    assert {name for name, one in verdicts.items() if not one["ok"]} == {"v1.3.0-beta"}
    assert "sha256" in verdicts["v1.3.0-beta"]["message"]
    assert set(verdicts) == {"v1.2.3", "v1.3.0-beta", "v1.4.0-rc1", "v1.2.2", "registry"}
    assert abfleet("verify", "staging", "--registry", root).exit_code == 1
    assert abfleet("verify", "production", "--registry", root).exit_code == 0


def test_verify_reports_a_broken_alias(root: Path) -> None:
    """An alias that leads outside is a failure of the registry, found without naming it."""
    (root / "staging").unlink()
    (root / "staging").symlink_to("..")
    result = abfleet("verify", "--registry", root)
    assert result.exit_code == 1
    assert "alias staging points to '..'" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--registry", "nowhere"], "--registry 'nowhere' is not a folder"),
        (["verify", "v9", "--registry", str(COMMITTED)], "model 'v9' is not in the registry"),
        (["verify", "../v1.2.3", "--registry", str(COMMITTED)], "is not a version or an alias"),
        (["train", "--data", "nowhere", "--out", "nowhere"], "ratings.csv: cannot be read"),
        (["train"], "Missing option"),
        (["train", "--data", "x", "--seed", "-1"], "Invalid value"),
    ],
)
def test_wrong_usage_exits_2_with_one_clear_message(arguments: list[str], message: str) -> None:
    """A wrong name or folder is a usage mistake: exit code 2, the reason on standard error, no traceback."""
    result = abfleet(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_train_writes_a_registry_that_verifies(ratings: Path, tmp_path: Path) -> None:
    """train, verify and list work one after the other on data of one's own."""
    out = tmp_path / "own"
    result = abfleet("train", "--data", ratings, "--out", out, "--min-ratings", "3")
    assert result.exit_code == 0, result.output
    assert [line.split("\t")[2] for line in result.output.splitlines()] == ["new"] * 4
    assert abfleet("verify", "--registry", out).exit_code == 0
    listed = json.loads(abfleet("list", "--json", "--registry", out).output)["models"]
    assert {model["trained_on"] for model in listed} == {ratings.name}


@pytest.mark.parametrize("command", ["train", "list", "verify"])
def test_help_has_an_example(command: str) -> None:
    """Each command's help ends with a line that can be copied."""
    result = abfleet(command, "--help")
    assert result.exit_code == 0
    assert f"Example: abfleet models {command}" in result.output


def test_opening_a_model_talks_to_nobody(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry, which begins with a file of its own, stays off in the commands that open models too."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-m", "abfleet", "models", "verify", "v1.2.3", "--registry", COMMITTED],
        env=environment | {"TMPDIR": str(temporary)},
        check=True,
        timeout=120,
        stdout=subprocess.DEVNULL,
    )
    assert list(temporary.iterdir()) == []
