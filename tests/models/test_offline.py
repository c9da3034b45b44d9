"""What a registry knows of its versions offline: the committed numbers, and a broken version that harms no other."""

from pathlib import Path

from abfleet_models.offline import offline_facts
from abfleet_models.registry import Registry


def test_metrics_and_catalogues_of_all_versions(registry: Registry) -> None:
    """As metrics.json and metadata.json have them, archived versions too."""
    facts = offline_facts(registry.root)
    assert facts.problems == ()
    assert set(facts.versions) == {"v1.2.2", "v1.2.3", "v1.3.0-beta", "v1.4.0-rc1"}
    one = facts.versions["v1.2.3"]
    manifest, metrics = registry.resolve("v1.2.3").manifest, registry.resolve("v1.2.3").metrics()
    assert metrics is not None
    assert one.metrics == metrics.values != ()
    assert one.items == dict(manifest.training.counts)["items"] > 0


def test_a_broken_version_is_told_and_harms_no_other(registry: Registry) -> None:
    """Its problem names it; the others are there."""
    (registry.root / "v1.3.0-beta" / "metrics.json").write_text("{")
    facts = offline_facts(registry.root)
    assert set(facts.versions) == {"v1.2.2", "v1.2.3", "v1.4.0-rc1"}
    (problem,) = facts.problems
    assert "v1.3.0-beta" in problem


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    """No version, one problem."""
    facts = offline_facts(tmp_path / "nowhere")
    assert facts.versions == {}
    assert len(facts.problems) == 1
