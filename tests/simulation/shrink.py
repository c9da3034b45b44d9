"""From a script that breaks an invariant to a short one that still breaks the same."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.simulation.script import ON_ROUTERS, Script, without

MOST_RUNS = 200


def kind_of(sentence: str) -> str:
    """What is broken, without the names and numbers of this run."""
    return re.sub(r"[\d.]+", "#", sentence.partition(": ")[0])[:60]


def shrink(script: Script, broken: str, breaks: Callable[[Script], list[str]]) -> Script:
    """The shortest that is found: no fault, no phase and no half of a phase can be left out of it.

    `broken`: a sentence that the invariants say of it; `breaks` runs a script and gives the sentences.
    """
    kind, runs, smaller = kind_of(broken), 0, True
    while smaller:
        smaller = False
        for shorter in shorter_ones(script):
            runs += 1
            if runs > MOST_RUNS:
                return script
            if any(kind_of(sentence) == kind for sentence in breaks(shorter)):
                script, smaller = shorter, True
                break
    return script


def shorter_ones(script: Script) -> Iterator[Script]:
    """Scripts that are a step shorter, the larger steps first."""
    if script.idle_seconds:
        away = script.idle_seconds
        phases = tuple(replace(phase, at=phase.at - away) if phase.at > away else phase for phase in script.phases)
        yield replace(script, idle_seconds=0.0, phases=phases)
    for place in range(len(script.faults)):
        yield without(script, place)
    for place, phase in enumerate(script.phases):
        rest = (*script.phases[:place], *script.phases[place + 1 :])
        if len(script.phases) > 1:
            yield replace(script, phases=rest)
        if phase.calls > 1:
            half = replace(phase, calls=phase.calls // 2)
            yield replace(script, phases=(*script.phases[:place], half, *script.phases[place + 1 :]))
    for place, fault in enumerate(script.faults):
        if fault.seconds > 0.1:
            half_fault = replace(fault, seconds=round(fault.seconds / 2, 3))
            yield replace(script, faults=(*script.faults[:place], half_fault, *script.faults[place + 1 :]))
    if script.routers > 1:
        faults = tuple(replace(one, target=0) if one.kind in ON_ROUTERS else one for one in script.faults)
        yield replace(script, routers=1, faults=faults)
