"""Promote, roll back, archive, restore and add as a program calls them: what changes, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from abfleet_models import disk
from abfleet_models.errors import BusyError, IntegrityError, RegistryError, ReleaseError, UnknownVersionError
from abfleet_models.registry import Registry
from abfleet_models.release import Release

from tests.models.conftest import NOW
from tests.models.killed_release import candidate, hidden


def trail(root: Path) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = json.loads((root / "registry.json").read_text())["log"]
    return log


def test_a_promotion_and_its_rollback(root: Path) -> None:
    """The link moves, the trail says when, what, from where, by whom and why; a rollback leads back."""
    with Release.begin(root, now=NOW, by="ada", reason="won") as release:
        event = release.promote("v1.4.0-rc1", alias="production")
    assert Registry(root).aliases()["production"] == "v1.4.0-rc1"
    assert event is not None
    assert trail(root)[-1] == event.to_dict()
    assert trail(root)[-1] == {
        "at": "2026-11-23T12:00:00Z",
        "event": "promoted",
        "version": "v1.4.0-rc1",
        "sha256": Registry(root).resolve("v1.4.0-rc1").manifest.sha256,
        "alias": "production",
        "was": "v1.2.3",
        "by": "ada",
        "reason": "won",
    }
    with Release.begin(root, now=NOW) as release:
        release.rollback("production")
    assert Registry(root).aliases() == {"production": "v1.2.3", "staging": "v1.3.0-beta"}
    assert Registry(root).check() == []
    assert hidden(root) == []


def test_a_promotion_to_where_it_leads_already_changes_nothing(root: Path) -> None:
    """No event, no line."""
    before = (root / "registry.json").read_bytes()
    with Release.begin(root, now=NOW) as release:
        assert release.promote("production", alias="production") is None
    assert (root / "registry.json").read_bytes() == before


def test_an_alias_that_leads_to_nothing_can_still_be_rolled_back(root: Path) -> None:
    """A version that was removed by hand is when a rollback is needed most."""
    with Release.begin(root, now=NOW) as release:
        release.promote("v1.4.0-rc1", alias="production")
    disk.remove(root / "v1.4.0-rc1")
    with pytest.raises(UnknownVersionError):
        Registry(root).resolve("production")
    with Release.begin(root, now=NOW) as release:
        release.rollback("production")
    assert Registry(root).resolve("production").version == "v1.2.3"


def test_what_is_archived_is_kept_and_comes_back(root: Path) -> None:
    """A version goes under archive/ with every byte, is not served there, and is served again once restored."""
    model = (root / "v1.4.0-rc1" / "model.onnx").read_bytes()
    with Release.begin(root, now=NOW) as release:
        release.archive("v1.4.0-rc1")
        assert release.registry.archived("v1.4.0-rc1").read_verified() == model
        with pytest.raises(UnknownVersionError, match="archived"):
            release.registry.resolve("v1.4.0-rc1")
        release.restore("v1.4.0-rc1")
    assert Registry(root).resolve("v1.4.0-rc1").read_verified() == model
    assert [event["event"] for event in trail(root)[-2:]] == ["archived", "restored"]


def test_a_version_is_added_and_listed(root: Path) -> None:
    """Its files are there, registry.json has it with what was measured, and no alias moves."""
    aliases = Registry(root).aliases()
    with Release.begin(root, now=NOW) as release:
        release.add(candidate(root), measured={"latency_us": {"1x20": 30.0}})
    assert Registry(root).check() == []
    assert Registry(root).aliases() == aliases
    listed = {entry["version"]: entry for entry in json.loads((root / "registry.json").read_text())["models"]}
    assert listed["v9.0.0"]["latency_us"] == {"1x20": 30.0}
    assert listed["v9.0.0"]["metrics"] == listed["v1.3.0-beta"]["metrics"]


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda release: release.promote("v9", alias="production"), UnknownVersionError, "'v9' is not in the registry"),
        (lambda release: release.promote("v1.2.2", alias="production"), UnknownVersionError, "archived"),
        (lambda release: release.promote("v1.2.3", alias="best"), ReleaseError, "allowed: production, staging"),
        (lambda release: release.promote("../v1.2.3", alias="production"), RegistryError, "not a version or an alias"),
        (lambda release: release.rollback("production"), ReleaseError, "has no version before it"),
        (lambda release: release.rollback("../x"), ReleaseError, "is not an alias"),
        (lambda release: release.archive("v1.2.3"), ReleaseError, "because production points to it"),
        (lambda release: release.archive("staging"), ReleaseError, "is an alias"),
        (lambda release: release.restore("v1.2.3"), UnknownVersionError, "not in the archive"),
    ],
)
def test_what_may_not_be_is_refused_and_changes_nothing(root: Path, wrong: Any, error: Any, words: str) -> None:
    """One line that says why, and the registry is as it was."""
    before = {path: path.read_bytes() for path in root.rglob("*.json")}
    with pytest.raises(error, match=words), Release.begin(root, now=NOW) as release:
        wrong(release)
    assert {path: path.read_bytes() for path in root.rglob("*.json")} == before
    assert hidden(root) == []


def test_names_are_taken_once(root: Path) -> None:
    """A version is not added over one that is there, archived or an alias; and not restored over one either."""
    files = candidate(root)
    with Release.begin(root, now=NOW) as release:
        for name in ("v1.2.3", "v1.2.2", "production", "archive"):
            renamed = {
                key: json.dumps(json.loads(value) | {"version": name}).encode() if key.endswith(".json") else value
                for key, value in files.items()
            }
            with pytest.raises(ReleaseError, match="version:"):
                release.add(renamed)
        (root / "v1.2.2").symlink_to("v1.2.3")
        with pytest.raises(ReleaseError, match="already has an entry of that name"):
            release.restore("v1.2.2")


def test_one_release_at_a_time(root: Path) -> None:
    """While one process holds the registry another is refused at once; when the holder is killed, the next one may."""
    code = (
        "import sys; from pathlib import Path; from abfleet_models import disk\n"
        "with disk.only_writer(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match="another process"), Release.begin(root, now=NOW):
            pass
        holder.kill()
    with Release.begin(root, now=NOW) as release:
        release.promote("v1.3.0-beta", alias="production")


@pytest.mark.parametrize(
    "journal",
    [
        "{}",
        "[]",
        '{"event": {"at": "", "event": "promoted", "version": "../../x", "sha256": "", "alias": "production"}}',
        '{"event": {"at": "", "event": "promoted", "version": "v1.2.3", "sha256": "", "alias": "../x"}}',
        '{"event": {"at": "", "event": "archived", "version": "v1.2.3", "sha256": "", "alias": "staging"}}',
        '{"event": {"at": "", "event": "burned", "version": "v1.2.3", "sha256": ""}}',
    ],
)
def test_a_foreign_journal_is_not_followed(root: Path, journal: str) -> None:
    """A journal that no release wrote is refused by name; nothing is moved, inside the registry or out of it."""
    (root / ".release.json").write_text(journal)
    aliases, versions = Registry(root).aliases(), Registry(root).versions()
    with pytest.raises((IntegrityError, RegistryError), match=r"\.release\.json"), Release.begin(root, now=NOW):
        pass
    assert (Registry(root).aliases(), Registry(root).versions()) == (aliases, versions)


def test_a_folder_that_was_only_put_aside_comes_back(root: Path) -> None:
    """A rebuild that was killed between its two renames loses no version, and other hidden files are left alone."""
    (root / "v1.2.3").rename(root / ".v1.2.3.99.old")
    (root / ".v1.2.3.99.tmp").mkdir()
    (root / ".keep").touch()
    with Release.begin(root, now=NOW):
        pass
    assert Registry(root).resolve("production").read_verified()
    assert hidden(root) == [".keep"]
