"""The autopilot without files, by scenarios: what it halts, what it raises, and what it waits for."""

import math
import random
from dataclasses import replace

import pytest
from abfleet_analysis.decision.metrics import Failure
from abfleet_autopilot.acts import Action
from abfleet_autopilot.core import Core
from abfleet_autopilot.lines import CountedCall, Other, OutcomeLine
from abfleet_experiments import change
from abfleet_experiments.config import Config

from tests.autopilot.made import MINUTE, Fate, allocated, at, calls, config_of, failing, fed, report, us

HOUR = 60 * MINUTE
RAMP = "{ramp: {traffic: [1, 5, 20], hold: 1h, users: 100}}"


def started(config: Config, routers: int = 0) -> Core:
    core = Core(config, routers=routers)
    core.take(allocated(config, 0))
    return core


# --- halts ------------------------------------------------------------------------------------------------------------


def test_a_healthy_canary_with_few_errors_is_let_be() -> None:
    """Half a percent of wrong answers in both groups for two hours: no act, where fixed thresholds act."""
    config = config_of()
    rates = {"control": 0.005, "canary": 0.005}
    assert fed(started(config), calls(config, 1, 2 * HOUR, failing(rates))) == []


def test_wrong_answers_are_halted_with_figures() -> None:
    """A tenth of the canary's answers are wrong from the start: halted within a quarter of an hour, and why is said."""
    config = config_of()
    (act,) = fed(started(config), calls(config, 1, HOUR, failing({"control": 0.01, "canary": 0.1})))
    assert (act.action, act.experiment, act.group) == (Action.HALT, "e", "canary")
    assert us(4 * MINUTE) < act.as_of <= us(15 * MINUTE)
    assert "error_rate guardrail: more in canary than the tolerated 1.25 times control's" in act.reasons[0]
    assert "where canary should have 20.0% of them" in act.reasons[1]
    assert act.figures["error_rate"]["e"] >= 200
    assert act.figures["error_rate"]["users"] > 0.2 * act.figures["error_rate"]["control_users"]


def test_a_control_without_calls_is_no_comparison() -> None:
    """Its lines are missing: the canary's failures are beside nothing, and half of an hour later they are again."""
    config = config_of()
    lines = [line for line in calls(config, 1, HOUR, failing({"canary": 0.2})) if line.group == "canary"]
    core = started(config)
    assert fed(core, iter(lines)) == []
    (act,) = fed(core, calls(config, HOUR + 1, 2 * HOUR, failing({"canary": 0.2})))
    assert act.group == "canary"


def test_slow_answers_are_halted_by_a_guardrail_of_response_times() -> None:
    """Three times as many slow answers as control; what is slow stands in the file."""

    def fate(group: str, _: float, rng: random.Random) -> tuple[Failure, float]:
        slow = rng.random() < (0.15 if group == "canary" else 0.05)
        return Failure.NONE, 300.0 if slow else 10.0

    (act,) = fed(started(config_of()), calls(config_of(), 1, HOUR, fate))
    assert act.figures.keys() == {"response_time_p95"}


def test_a_version_that_is_absent_is_halted_after_the_time_of_the_file() -> None:
    """From its last answer on; half an hour and statistics are not needed."""
    config = config_of("{absent: 5m}")

    def fate(group: str, seconds: float, _: random.Random) -> tuple[Failure, float]:
        gone = group == "canary" and seconds >= 20 * MINUTE
        return (Failure.ABSENT, -1.0) if gone else (Failure.NONE, 10.0)

    (act,) = fed(started(config), calls(config, 1, HOUR, fate))
    assert us(25 * MINUTE) - us(10) <= act.as_of <= us(25 * MINUTE) + us(1) - us(0)
    assert "canary is absent since 2026-12-01T00:" in act.reasons[0]
    assert act.figures["calls"] >= 30
    assert fed(started(config_of("{absent: 0}")), calls(config, 1, HOUR, fate)) == []


@pytest.mark.parametrize("later", [0, 20])
def test_a_service_that_is_out_halts_nobody(later: int) -> None:
    """Also where control is back some seconds before the canary: it has been answering for no longer than that."""
    config = config_of("{absent: 5m}")

    def fate(group: str, seconds: float, _: random.Random) -> tuple[Failure, float]:
        back = 20 * MINUTE + (later if group == "canary" else 0)
        return (Failure.ABSENT, -1.0) if 10 * MINUTE <= seconds < back else (Failure.NONE, 10.0)

    assert fed(started(config), calls(config, 1, 40 * MINUTE, fate)) == []


def test_a_killed_worker_is_one_outage_and_halts_nobody() -> None:
    """A minute in which the canary is not there, of an hour."""
    config = config_of()

    def fate(group: str, seconds: float, _: random.Random) -> tuple[Failure, float]:
        gone = group == "canary" and 1800 <= seconds < 1860
        return (Failure.ABSENT, -1.0) if gone else (Failure.NONE, 10.0)

    core = started(config)
    assert fed(core, calls(config, 1, HOUR, fate)) == []
    guardrails = core.evidence["e"].treatments[1].guardrails
    assert guardrails is not None
    assert guardrails.counts("error_rate", core.newest).outages == (1, 0, 0)


def test_what_came_before_a_halt_counts_no_more() -> None:
    """Halted, and given its share back: the guardrails begin anew, and good calls halt nobody."""
    config = config_of()
    core = started(config)
    (act,) = fed(core, calls(config, 1, HOUR, failing({"canary": 0.1})))
    off = change.halted(config, "e", "canary", at=at(HOUR))
    core.set_config(off, us(HOUR))
    core.forget("e", "canary", us(HOUR))
    core.take(allocated(off, HOUR + 1))
    assert core.acts(at(HOUR + 2)) == []
    assert core.decided(at(HOUR + 2))["e"].holds == ("the experiment is switched off",)
    core.set_config(config, us(2 * HOUR))
    assert core.acts(at(2 * HOUR)) == []  # at once, before a router has taken it
    core.take(allocated(config, 2 * HOUR + 1))
    assert fed(core, calls(config, 2 * HOUR + 2, 3 * HOUR, failing({"canary": 0.001, "control": 0.001}))) == []
    assert act.group == "canary"


def test_what_is_left_out_by_the_file_halts_nobody() -> None:
    """The window of an incident counts for nothing, here as in a report."""
    text = "{}\n    exclude: [{from: 2026-12-01T00:00:00Z, to: 2026-12-01T02:00:00Z, why: incident}]"
    config = config_of(text)
    assert fed(started(config), calls(config, 1, HOUR, failing({"canary": 0.3}))) == []


def test_harm_and_broken_data_are_halted_where_the_file_says_so() -> None:
    """By the report's verdict, if that is newer than the share; a roll back for other reasons is not harm."""
    for autopilot, verdict, harm, halted in (
        ("{}", "roll_back", True, True),
        ("{}", "roll_back", False, False),
        ("{halt: [guardrails]}", "roll_back", True, False),
        ("{}", "refuse", True, False),
        ("{halt: [broken_data]}", "refuse", True, True),
    ):
        core = started(config_of(autopilot))
        core.set_report("e", report(HOUR, verdict, harm=harm, since=30 * MINUTE))
        assert bool(core.acts(at(HOUR))) is halted, (autopilot, verdict, harm)
        core.forget("e", "canary", us(HOUR))  # it was halted, and a person gave it back
        assert core.acts(at(HOUR)) == []


def test_a_winner_is_concluded_only_where_the_file_says_so() -> None:
    """`conclude: ship` does what `abfleet conclude --winner` does."""
    for autopilot, wanted in (("{}", []), ("{conclude: ship}", [Action.CONCLUDE])):
        core = started(config_of(autopilot))
        core.set_report("e", report(HOUR, "ship"))
        assert [act.action for act in core.acts(at(HOUR))] == wanted


# --- climbs -----------------------------------------------------------------------------------------------------------


def test_a_ramp_with_no_effect_climbs_step_by_step() -> None:
    """After each hold, and never two steps in one; at the last step nothing is wanted any more."""
    config, begin = config_of(RAMP), 0.0
    core = started(config)
    rates = {"control": 0.005, "canary": 0.005}
    for traffic in (500, 2000):
        lines = calls(config, begin + 1, begin + 3 * HOUR, failing(rates), rate=5, seed=traffic)
        for line in lines:
            core.take(line)
            if line.at >= us(begin + HOUR) + us(2) - us(0):
                break
            if line.at < us(begin + HOUR - 5):
                assert core.lines % 5000 or core.acts(at((line.at - us(0)) / 1e6)) == []
        assert core.decided(at(begin + HOUR + 2))["e"].report_wanted
        core.set_report("e", report(begin + HOUR + 2))
        (act,) = core.acts(at(begin + HOUR + 2))
        assert (act.action, act.group, act.traffic_bp) == (Action.CLIMB, None, traffic)
        assert "control's would have been found with a probability of 80 %" in " ".join(act.reasons)
        config = change.ramped(config, "e", {}, traffic_bp=traffic, at=at(begin + HOUR + 3), now=at(begin))
        core.set_config(config, us(begin + HOUR + 3))
        begin += HOUR + 4
        core.take(allocated(config, begin))
    for line in calls(config, begin + 1, begin + 2 * HOUR, failing(rates), rate=5, seed=3):
        core.take(line)
    assert core.decided(at(begin + 2 * HOUR))["e"].acts == ()


def held(core: Core, seconds: float, faults: tuple[str, ...] = ()) -> str:
    decided = core.decided(at(seconds), faults)["e"]
    assert decided.acts == ()
    return " | ".join(decided.holds)


def climbing(autopilot: str = RAMP, routers: int = 0, fate: Fate = failing({})) -> Core:  # noqa: B008
    """A core that is about to climb, an hour and a bit after the step began."""
    config = config_of(autopilot)
    core = started(config, routers)
    for line in calls(config, 1, HOUR + 10, fate, rate=5):
        core.take(line)
    core.set_report("e", report(HOUR + 5))
    return core


def test_without_data_it_holds() -> None:
    """No data is a hold: none at all, none of late, none of a router, no user."""
    config = config_of(RAMP)
    assert "no router has taken the file's shares yet" in held(Core(config), HOUR)
    core = climbing()
    assert core.acts(at(HOUR + 10)) != []
    assert "no call is younger than a quarter" in held(core, HOUR + 10 + 16 * MINUTE)
    few = climbing(RAMP.replace("100", "1000000"))
    assert "canary has" in held(few, HOUR + 10)
    assert "and needs 1,000,000" in held(few, HOUR + 10)


def test_a_router_that_does_not_write_holds_traffic_back() -> None:
    """With --routers 2 both must have a line among the newest ten minutes."""
    core = climbing(routers=2)
    assert held(core, HOUR + 10) == "1 of 2 routers write"
    core.take(Other(us(HOUR + 10), "r2"))
    assert core.acts(at(HOUR + 10)) != []


def test_a_router_of_whose_calls_no_outcome_comes_holds_traffic_back() -> None:
    """While outcomes of the others' calls come; who is told of them plays no part."""
    for lost, words in ((0, ""), (1, "none of the outcomes of the last hour is of a call of r1")):
        core = climbing()
        for number in range(1, 2001):
            for router in range(2):
                request = 16 * (2 * number + router)
                (line,) = calls(core.config, HOUR + 9, HOUR + 9.05, failing({}), seed=number, router=f"r{router}")
                assert isinstance(line, CountedCall)
                core.take(line._replace(request=request))
                if number % 10 == 0 and not (lost and router):
                    core.take(OutcomeLine(us(HOUR + 9), "r0", request))
        assert (held(core, HOUR + 10) if words else "") == words
        assert bool(core.acts(at(HOUR + 10))) is not bool(lost)


def test_faults_of_the_log_and_of_the_data_hold_traffic_back() -> None:
    """What is wrong with clocks, and what a report calls broken; halts are not held back by it."""
    core = climbing()
    assert held(core, HOUR + 10, ("clocks",)) == "clocks"
    core.set_report("e", report(HOUR + 5, "refuse"))
    assert "the data cannot be judged: sample-ratio mismatch" in held(core, HOUR + 10)
    bad = started(config_of(RAMP))
    (act,) = fed(bad, calls(config_of(), 1, HOUR, failing({"canary": 0.3})))
    assert act.action is Action.HALT
    assert [one.action for one in bad.acts(at(HOUR), ("clocks",))] == [Action.HALT]


def test_a_guardrail_above_half_of_its_threshold_holds_traffic_back() -> None:
    """It need not act: E of 100 is enough to wait."""
    core = climbing()
    guardrails = core.evidence["e"].treatments[1].guardrails
    assert guardrails is not None
    number = 0
    while guardrails.counts("error_rate", core.newest).ln_e <= math.log(100):
        number += 1
        guardrails.bad("error_rate", us(HOUR + 10 * number), number, mine=True, share=0.2)
    assert "error_rate of canary is above half of its threshold" in held(core, HOUR + 10)


def test_a_step_too_small_to_find_harm_waits_where_the_file_asks_for_that() -> None:
    """With `detect` a step that could have found nothing is no evidence."""
    detecting = RAMP.replace("users: 100", "users: 100, detect: 3")
    few = failing({"control": 0.0005})
    assert "would have found no less than" in held(climbing(detecting, fate=few), HOUR + 10)

    def many(_: str, __: float, rng: random.Random) -> tuple[Failure, float]:
        drawn = rng.random()
        return (Failure.WRONG, -1.0) if drawn < 0.05 else (Failure.NONE, 300.0 if drawn < 0.1 else 10.0)

    assert climbing(detecting, fate=many).acts(at(HOUR + 10)) != []


def test_a_row_of_the_files_own_holds_the_autopilot_back() -> None:
    """Who has planned steps means them."""
    core = climbing()
    planned = change.ramped(core.config, "e", {}, traffic_bp=2000, at=at(5 * HOUR), now=at(0))
    core.set_config(planned, us(HOUR))
    assert "the file has a row of its own for 2026-12-01T05:00:00Z" in held(core, HOUR + 10)


# --- replays ----------------------------------------------------------------------------------------------------------


def test_the_same_lines_give_the_same_acts() -> None:
    """To the last digit of their figures."""
    config = config_of()
    found = [fed(started(config), calls(config, 1, HOUR, failing({"control": 0.01, "canary": 0.05}))) for _ in range(2)]
    assert found[0] == found[1] != []


def test_calls_of_others_change_nothing() -> None:
    """Of an unknown group, or of an experiment without an autopilot."""
    config = config_of()
    core = started(config)
    for line in calls(config, 1, 20 * MINUTE, failing({"canary": 0.5})):
        assert isinstance(line, CountedCall)
        core.take(line._replace(group="nobody"))
        core.take(line._replace(experiment="other"))
    assert core.acts(at(HOUR)) == []
    bare = replace(config, experiments=tuple(replace(one, autopilot=None) for one in config.experiments))
    assert Core(bare).decided(at(0)) == {}
