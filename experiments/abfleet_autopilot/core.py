"""The autopilot without files: lines and configurations in, acts and reasons for waiting out. Deterministic, no clock.

The same lines in the same order, with the same configuration, give the same acts.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from abfleet_experiments.config import Config, Experiment

from abfleet_autopilot.acts import IntendedAction, ReportVerdict
from abfleet_autopilot.deciding import Decided, Surroundings, decide
from abfleet_autopilot.evidence.experiment_evidence import ExperimentEvidence
from abfleet_autopilot.evidence.routers import ONE_IN, RouterWatch
from abfleet_autopilot.evidence.watched import Watched, watched
from abfleet_autopilot.lines import Allocated, CountedCall, Line, OutcomeLine, Reloaded, moment

MOST_REVISIONS: Final = 10_000


class Core:
    """All that the autopilot knows. Changed only by its methods; lines come in order of time."""

    def __init__(self, config: Config, *, routers: int = 0) -> None:
        """routers: How many are to write before traffic climbs; 0: as many as there are."""
        self.newest = 0
        self.lines = 0
        self.in_force: dict[str, int] = {}
        """Revisions that a router has put in force, with when, as far as the log says."""
        self._routers_wanted = routers
        self.routers = RouterWatch()
        self._reports: dict[str, ReportVerdict] = {}
        self._config = config
        self._evidence = {one.name: _evidence(config, one) for one in config.experiments if one.autopilot is not None}

    @property
    def config(self) -> Config:
        """The configuration that acts are made from."""
        return self._config

    @property
    def evidence(self) -> Mapping[str, ExperimentEvidence]:
        """By name of the experiment."""
        return self._evidence

    def follows(self, config: Config) -> bool:
        """Whether a new configuration only moves shares, so that what is known stays; else all begins anew."""
        return _watched_ones(config) == _watched_ones(self._config)

    def set_config(self, config: Config, now: int) -> None:
        """The file has changed. A treatment that has a share again begins anew, whatever the log says yet."""
        for experiment in config.experiments:
            evidence = self._evidence.get(experiment.name)
            before = next((one for one in self._config.experiments if one.name == experiment.name), None)
            if evidence is None or before is None:
                continue
            at = moment(now)
            was, shares = _shares(before, at), _shares(experiment, at)
            for number in evidence.treatments:
                name = evidence.watched.groups[number]
                if shares[name] and not was[name]:
                    evidence.begin(number, now)
        self._config = config

    def forget(self, experiment: str, group: str, at: int) -> None:
        """A treatment was halted then: what came before counts no more for its guardrails."""
        evidence = self._evidence.get(experiment)
        if evidence is not None and group in evidence.watched.groups[1:]:
            evidence.begin(evidence.watched.groups.index(group), at)

    def set_report(self, experiment: str, report: ReportVerdict) -> None:
        """The newest report of an experiment."""
        self._reports[experiment] = report

    def take(self, line: Line) -> None:
        """The next line."""
        at, router = line.at, line.router
        if at > self.newest:
            self.newest = at
        self.lines += 1
        self.routers.line(router, at)
        if isinstance(line, CountedCall):
            request = line.request
            if not request % ONE_IN:
                self.routers.call(router, request)
            evidence = self._evidence.get(line.experiment)
            if evidence is not None:
                evidence.on_call(line)
        elif isinstance(line, Allocated):
            self._note_revision(line.revision, at)
            evidence = self._evidence.get(line.experiment)
            if evidence is not None:
                evidence.on_allocated(line)
        elif isinstance(line, Reloaded):
            if line.active:
                self._note_revision(line.revision, at)
        elif isinstance(line, OutcomeLine):
            self.routers.outcome(line.request)

    def tick(self, now: int) -> None:
        """Every line up to a moment has been taken: what waited so long counts."""
        for evidence in self._evidence.values():
            evidence.tick(now)

    def decided(self, now: datetime, faults: Sequence[str] = ()) -> dict[str, Decided]:
        """What is to be done with each experiment, or why nothing is. now: On the wall; faults: of the log's files."""
        known = [*faults, *self.routers.faults(self.newest, self._routers_wanted)]
        return {
            experiment.name: decide(
                experiment,
                self._evidence[experiment.name],
                Surroundings(now, self.newest, known, self._reports.get(experiment.name)),
            )
            for experiment in self._config.experiments
            if experiment.name in self._evidence
        }

    def acts(self, now: datetime, faults: Sequence[str] = ()) -> list[IntendedAction]:
        """What is to be done, all experiments together."""
        return [act for decided in self.decided(now, faults).values() for act in decided.acts]

    def was_in_force(self, revision: str, since: datetime) -> bool:
        """Whether a router has put a revision in force since a moment."""
        at = self.in_force.get(revision)
        return at is not None and moment(at) >= since

    def _note_revision(self, revision: str, at: int) -> None:
        if revision and (revision in self.in_force or len(self.in_force) < MOST_REVISIONS):
            self.in_force[revision] = at


def _evidence(config: Config, experiment: Experiment) -> ExperimentEvidence:
    ramp = experiment.autopilot.ramp if experiment.autopilot is not None else None
    return ExperimentEvidence(watched(config, experiment), 0 if ramp is None else ramp.users)


def _watched_ones(config: Config) -> list[tuple[Watched, int, str]]:
    """What evidence goes by, of each experiment with an autopilot; the salt is who is in which group."""
    found = []
    for one in config.experiments:
        if one.autopilot is not None:
            users = 0 if one.autopilot.ramp is None else one.autopilot.ramp.users
            found.append((watched(config, one), users, one.salt))
    return found


def _shares(experiment: Experiment, at: datetime) -> dict[str, int]:
    row = experiment.row_in_force(at) if experiment.enabled else None
    names = [group.name for group in experiment.groups]
    return dict.fromkeys(names, 0) if row is None else dict(zip(names, row.weights_bp, strict=True))
