"""A reloader over a file that a test edits, with workers that serve when the test says so."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from abfleet_log.writer.decision_log import DecisionLog
from abfleet_router.configuration.reload import Reloader
from abfleet_router.configuration.snapshot import Snapshot
from abfleet_router.fleet.health_watch import ReplicaHealth

from tests.router.bench import Bench
from tests.router.fakes import turns

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def experiments(*weights: int, extra: str = "", v9: bool = False) -> str:
    """An experiments file with these weights over v1, v2 (and v9)."""
    versions = ["v1", "v2", "v9"] if v9 else ["v1", "v2"]
    models = "".join(f'  {version}: {{target: "10.0.0.{number}:1"}}\n' for number, version in enumerate(versions, 1))
    names = ("control", "treatment", "newcomer")
    groups = "".join(
        f"      - {{name: {name}, model: {version}, weight: {weight}}}\n"
        for name, version, weight in zip(names, versions, weights, strict=False)
    )
    return (
        f"version: 1\ndefault: v1\nmodels:\n{models}experiments:\n  - name: ranking\n    salt: s\n"
        f"    groups:\n{groups}{extra}"
    )


class Follower:
    """A reloader over a file, with a fleet whose workers serve when the test says so."""

    def __init__(self, folder: Path, text: str, fleet_text: str | None = None, settle_polls: int = 0) -> None:
        self.file = folder / "recommender.yaml"
        self.file.write_text(text)
        self.fleet_file = None if fleet_text is None else folder / "fleet.yaml"
        if self.fleet_file is not None:
            self.fleet_file.write_text(fleet_text or "")
        self.bench = Bench()
        self.now = NOW
        self.used: list[Snapshot] = []
        self.reloader = Reloader(
            self.file,
            self.fleet_file,
            self.bench.fleet,
            self.bench.metrics,
            cast(DecisionLog, self.bench.log),
            self.used.append,
            router="router-1",
            now=lambda: self.now,
            settle_polls=settle_polls,
        )

    async def begin(self) -> None:
        """Reads the file, and polls once, with all workers serving."""
        await self.reloader.start()
        await turns()
        await self.reloader.poll()

    async def poll(self, times: int = 1) -> None:
        """So many polls, with turns for what they start."""
        for _ in range(times):
            await self.reloader.poll()
            await turns()

    def replace(self, text: str) -> None:
        """What most editors and `abfleet ramp` do: a new file is renamed over the old one."""
        new = self.file.with_name("new")
        new.write_text(text)
        new.replace(self.file)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        assert self.bench.log.problems == []
        return [line for line in self.bench.log.lines if line["event"] == name]

    @property
    def weights(self) -> list[int]:
        """In force, in percent."""
        (experiment,) = self.used[-1].config.experiments
        return [group.weight_bp // 100 for group in experiment.groups]

    def health(self, version: str, health: ReplicaHealth) -> None:
        """Of every replica of a version."""
        for replica in self.bench.made:
            if replica.version == version:
                replica.becomes(health)
