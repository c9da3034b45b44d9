"""What the soak calls growth: a leak is found, noise and a warm-up are not."""

import random
from dataclasses import replace

import pytest

from tests.proofs.soak import Held, Sample, verdicts

STEADY = [
    Sample(
        minute=minute,
        calls=1000,
        failures={},
        p99_ms=5.0 + random.Random(minute).random(),
        held={
            "router": Held(
                resident_mb=(80.0 if minute > 8 else 70.0 + minute) + random.Random(minute).random(),
                descriptors=30 + minute % 2,
                threads=12,
            ),
            "v1": Held(resident_mb=60.0, descriptors=20, threads=9),
        },
    )
    for minute in range(60)
]


def more(one: Sample, name: str, **added: float) -> Sample:
    """A process of it has so much more."""
    of = one.held[name]
    changed = replace(of, **{what: getattr(of, what) + value for what, value in added.items()})
    return replace(one, held={**one.held, name: changed})


def test_a_warm_up_and_noise_are_no_growth() -> None:
    """Memory that rises in the first minutes and then stays."""
    assert verdicts(STEADY) == []


@pytest.mark.parametrize(
    ("word", "changed"),
    [
        ("router: memory grows", lambda one: more(one, "router", resident_mb=0.2 * one.minute)),
        ("v1: memory grows", lambda one: more(one, "v1", resident_mb=0.2 * one.minute)),
        ("router: descriptors grow", lambda one: more(one, "router", descriptors=int(one.minute / 5))),
        ("v1: threads grow", lambda one: more(one, "v1", threads=int(one.minute / 10))),
        ("slower", lambda one: replace(one, p99_ms=one.p99_ms * (1 + one.minute**2 / 100))),
        (
            "1 calls failed in minute 40.0: {14: 1}",
            lambda one: replace(one, failures={14: 1} if one.minute == 40 else {}),
        ),
    ],
)
def test_what_grows_is_found(word: str, changed: "object") -> None:
    """A fifth of a megabyte a minute, a descriptor in five minutes, a thread in ten, a p99 that rises, one failure."""
    assert callable(changed)
    (found,) = verdicts([changed(one) for one in STEADY])
    assert word in found
