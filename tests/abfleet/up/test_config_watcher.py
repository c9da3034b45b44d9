"""Which edits of the experiments file and the fleet file `up` follows."""

from pathlib import Path

from abfleet.up.config_watcher import ConfigWatcher
from tests.support.fleet import experiments_file, replace


async def test_where_workers_are_is_followed(tmp_path: Path) -> None:
    """A target of the fleet file leaves the revision as it is, and is news all the same; a comment is none."""
    experiments, fleet = tmp_path / "experiments.yaml", tmp_path / "fleet.yaml"
    experiments.write_text(experiments_file())
    fleet.write_text('version: 1\nmodels: {v1.2.3: {target: "h:1"}}\n')
    watcher = ConfigWatcher(experiments, fleet)
    first = await watcher.changed()
    replace(fleet, '# a comment\nversion: 1\nmodels: {v1.2.3: {target: "h:1"}}\n')
    assert await watcher.changed() is None
    replace(fleet, 'version: 1\nmodels: {v1.2.3: {target: "other:1"}}\n')
    moved = await watcher.changed()
    assert first is not None
    assert moved is not None
    assert (moved.revision, moved.models["v1.2.3"].target) == (first.revision, ("other:1",))
