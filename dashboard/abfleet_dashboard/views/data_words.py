"""What is wrong with the data of an experiment, in plain words."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from abfleet_analysis.decision.faults import log_faults, sample_ratio_reason
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.report.render import coverage_text
from abfleet_analysis.report.report import ExperimentReport
from abfleet_statistics import srm

from abfleet_dashboard.numbers import counted, p_value, share

NOTHING = "No problems found."


class Level(StrEnum):
    """How bad a finding is: nothing may be concluded, it needs a check, or it is a mere note."""

    BROKEN = "broken"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about the data, with how bad it is."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class DataHealth:
    """All that was found, the worst first.

    Attributes:
        word: `broken`, `to check` or `sound`. sentence: The same for a reader who asks what is wrong.
    """

    word: str
    sentence: str
    findings: tuple[Finding, ...]

    @property
    def level(self) -> str:
        """The worst level among the findings, as a class of the style sheet."""
        worst = self.findings[0].level if self.findings else Level.NOTE
        return str(worst)

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """The findings that need action: without the level `note`."""
        return tuple(finding for finding in self.findings if finding.level is not Level.NOTE)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """The findings of level `note`: what was left out, as it should be."""
        return tuple(finding for finding in self.findings if finding.level is Level.NOTE)


def health(report: ExperimentReport) -> DataHealth:
    """The health of an experiment's data."""
    findings = (*_faults(report), *_warnings(report), *_notes(report))
    broken = [finding for finding in findings if finding.level is Level.BROKEN]
    warnings = [finding for finding in findings if finding.level is Level.WARNING]
    if broken:
        return DataHealth("broken", "The data is broken.", findings)
    if warnings:
        return DataHealth("to check", "Nothing rules out a conclusion, but check this:", findings)
    return DataHealth("sound", NOTHING, findings)


def _faults(report: ExperimentReport) -> Iterator[Finding]:
    evidence, ratio = report.gathered.evidence, report.decision.sample_ratio
    said = []
    if not ratio.ok:
        said.append(sample_ratio_reason(evidence.groups, ratio))
    said += log_faults(evidence)
    if report.decision.verdict is Verdict.REFUSE:
        # The verdict's own reasons are faults too, such as groups that differed before the experiment began.
        said += [reason for reason in report.decision.reasons if reason not in said]
    for sentence in said:
        yield Finding(Level.BROKEN, f"{sentence[:1].upper()}{sentence[1:]}.")


def _warnings(report: ExperimentReport) -> Iterator[Finding]:
    evidence, ratio = report.gathered.evidence, report.decision.sample_ratio
    quality = evidence.quality
    if ratio.ok and ratio.p_value < srm.ALPHA_AT_SHIPPING:
        yield Finding(
            Level.WARNING,
            f"The groups' sizes are suspicious (chi-square test, {p_value(ratio.p_value)}). Look for lost log lines.",
        )
    if quality.unreadable:
        part = share(quality.unreadable / quality.lines) if quality.lines else ""
        yield Finding(Level.WARNING, f"{counted(quality.unreadable, 'line')} of the log cannot be read ({part}).")
    if quality.users_in_two_groups:
        yield Finding(
            Level.WARNING,
            f"{counted(quality.users_in_two_groups, 'user')} of {quality.users:,} were served in two groups at a time.",
        )
    if quality.unjoined_outcomes:
        yield Finding(
            Level.WARNING,
            f"{counted(quality.unjoined_outcomes, 'outcome')} whose request is not in the log; not counted by request.",
        )
    if quality.clicks_not_in_list:
        yield Finding(
            Level.WARNING,
            f"{counted(quality.clicks_not_in_list, 'click')} on items that were not in the list: not counted.",
        )
    if quality.impressions_of_no_list:
        yield Finding(
            Level.WARNING,
            f"{counted(quality.impressions_of_no_list, 'impression')} without a request id, or of an item or a list "
            "that was not shown: not counted.",
        )
    if quality.other_currencies:
        yield Finding(
            Level.WARNING,
            f"{counted(quality.other_currencies, 'outcome')} in a currency without a rate: not counted.",
        )
    if quality.conflicting_outcomes:
        yield Finding(
            Level.WARNING,
            f"{counted(quality.conflicting_outcomes, 'outcome')} with the id of another outcome: not counted.",
        )
    if quality.wrong_clock:
        lines = counted(quality.wrong_clock, "line")
        yield Finding(Level.WARNING, f"{lines} of the log with a time far from all others: not counted.")
    if quality.unknown_allocation:
        calls = counted(quality.unknown_allocation, "call")
        yield Finding(Level.WARNING, f"{calls} of an allocation that nothing describes, or of an old one: not counted.")
    if quality.unusable_values:
        lines = counted(quality.unusable_values, "line")
        yield Finding(
            Level.WARNING, f"{lines} of the log with a value that is not a usable number, such as NaN: not counted."
        )


def _notes(report: ExperimentReport) -> Iterator[Finding]:
    quality, ratio = report.gathered.evidence.quality, report.decision.sample_ratio
    counts = (
        (quality.synthetic, "synthetic call", "synthetic calls", "left out"),
        (quality.overrides, "call with a forced group", "calls with a forced group", "left out"),
        (quality.no_user_id, "call without a user id", "calls without a user id", "left out"),
        (quality.holdout, "call of a user held out", "calls of users held out", "left out"),
        (
            quality.pinned,
            "call whose caller chose the version",
            "calls whose callers chose the version",
            "left out",
        ),
        (
            quality.moved_by_ramp,
            "user moved by a ramp",
            "users moved by a ramp",
            f"calls before the move do not count; {counted(quality.not_compared, 'user')} not seen since, in no table",
        ),
        (
            quality.in_both_groups,
            "user",
            "users",
            "counted in two groups, one after the other: their window had closed, or a new salt assigned them again",
        ),
        (quality.duplicates, "repeated exposure", "repeated exposures", "counted once"),
        (quality.duplicate_outcomes, "repeated outcome", "repeated outcomes", "counted once"),
    )
    for count, one, many, then in counts:
        if count:
            yield Finding(Level.NOTE, f"{counted(count, one, many)}: {then}.")
    if text := coverage_text(report):
        yield Finding(Level.NOTE, f"{text[:1].upper()}{text[1:]}.")
    if quality.open_windows:
        yield Finding(
            Level.NOTE,
            f"{counted(quality.open_windows, 'user')} joined so recently that outcomes may still arrive.",
        )
    if ratio.ok and ratio.p_value >= srm.ALPHA_AT_SHIPPING and report.gathered.evidence.users[-1].sum() > 0:
        yield Finding(
            Level.NOTE,
            f"The groups have the sizes they should have (chi-square test, {p_value(ratio.p_value)}). "
            "With few users, a loss of a few percent of one group's lines would go unnoticed.",
        )
