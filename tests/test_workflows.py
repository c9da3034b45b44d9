"""CI and hooks against the repository: they call commands that exist, on the Pythons that are promised. Runs none."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
JOBS: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]


def commands_of_run() -> set[str]:
    """What `./run` lists."""
    usage = subprocess.run([ROOT / "run"], capture_output=True, text=True, timeout=60, check=True).stdout
    return {line.split()[0] for line in usage.splitlines() if line.startswith("  ")}


def steps() -> list[str]:
    """Every command of every job."""
    return [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]


def test_ci_runs_what_people_run() -> None:
    """Every step is `.ci/run`, a command of `./run`, or the build of an image that has a Dockerfile."""
    known = commands_of_run()
    for command in steps():
        words = command.split()
        if words[0] == "./run":
            assert words[1] in known, command
        elif words[:2] == ["docker", "build"]:
            kinds = JOBS["images"]["strategy"]["matrix"]["image"]
            assert all((ROOT / "compose" / f"{kind}.Dockerfile").exists() for kind in kinds)
        else:
            assert words == [".ci/run"], command
    assert {".ci/run", "./run test-compose"} <= set(steps())


def test_ci_script_runs_commands_that_exist() -> None:
    """`.ci/run` checks and tests, by commands of `./run`."""
    called = set(re.findall(r"\./run ([a-z-]+)", (ROOT / ".ci" / "run").read_text()))
    assert {"check", "test"} <= called <= commands_of_run()


def test_ci_covers_the_pythons_that_are_promised() -> None:
    """The matrix is the list of versions in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = [one.rpartition(" ")[2] for one in project["classifiers"] if re.search(r":: 3\.\d+$", one)]
    assert JOBS["check-and-test"]["strategy"]["matrix"]["python"] == promised
    assert project["requires-python"] == f">={promised[0]}"


def test_every_dockerfile_is_built_and_scanned() -> None:
    """No image is left out of the job that builds and scans them."""
    files = {path.name.removesuffix(".Dockerfile") for path in (ROOT / "compose").glob("*.Dockerfile")}
    assert set(JOBS["images"]["strategy"]["matrix"]["image"]) == files
    assert any("trivy" in step.get("uses", "") for step in JOBS["images"]["steps"])


def test_hooks_run_what_ci_runs() -> None:
    """Hooks are local, and call commands of `./run`."""
    assert [repo["repo"] for repo in HOOKS] == ["local"]
    for hook in HOOKS[0]["hooks"]:
        program, command = hook["entry"].split()
        assert program == "./run"
        assert command in commands_of_run()
