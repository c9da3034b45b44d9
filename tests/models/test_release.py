"""Changes of a registry on disk: whole or not at all, also for those who read at the same moment."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from abfleet_models import release
from abfleet_models.errors import ManifestError, UnknownVersionError
from abfleet_models.registry import Registry
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.conftest import NOW

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def parts(root: Path, version: str) -> dict[str, Any]:
    """What `install` takes, from a version that is there."""
    folder = root / version
    return {
        "model": (folder / "model.onnx").read_bytes(),
        "metadata": json.loads((folder / "metadata.json").read_text()),
        "metrics": json.loads((folder / "metrics.json").read_text()),
    }


@settings(deadline=None)
@given(value=st.dictionaries(st.text(), json_values))
def test_json_for_people_is_json(value: dict[str, Any]) -> None:
    """The layout with a key a line loses nothing."""
    assert json.loads(release.to_json(value)) == value


def test_wrong_metadata_writes_nothing(root: Path) -> None:
    """A version whose metadata breaks the schema leaves the registry as it was."""
    before = sorted(root.rglob("*"))
    version = parts(root, "v1.2.3")
    version["metadata"] |= {"version": "v3.0.0", "sha256": "?"}
    with pytest.raises(ManifestError, match="sha256"):
        release.install(root, **version, archived=False, now=NOW)
    assert sorted(root.rglob("*")) == before


def test_an_alias_cannot_lead_to_nothing(root: Path) -> None:
    """Pointing an alias at a version that is not served is refused and changes nothing."""
    for version in ("v9", "v1.2.2", "archive"):
        with pytest.raises(UnknownVersionError, match="cannot point to it"):
            release.point(root, "production", version)
    assert Registry(root).aliases() == {"production": "v1.2.3", "staging": "v1.3.0-beta"}
    assert not list(root.glob(".*"))


def test_readers_always_find_a_version_while_an_alias_moves(root: Path) -> None:
    """Through 200 moves of an alias every look-up gives one of the two versions, and none fails."""
    registry = Registry(root)
    versions = {"v1.2.3", "v1.4.0-rc1"}
    done, seen, failures = threading.Event(), set[str](), list[Exception]()

    def read() -> None:
        while True:
            last = done.is_set()
            try:
                seen.add(registry.resolve("production").version)
            except Exception as error:  # noqa: BLE001 - any failure at all is what this test looks for
                failures.append(error)
                return
            if last:
                return

    reader = threading.Thread(target=read)
    reader.start()
    for move in range(200):
        release.point(root, "production", "v1.2.3" if move % 2 else "v1.4.0-rc1")
    done.set()
    reader.join(timeout=60)
    assert not reader.is_alive()
    assert not failures
    assert seen <= versions
    assert registry.resolve("production").version == "v1.2.3"
