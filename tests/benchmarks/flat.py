"""How our router's CPU a call changes with the size of its files and fleet. Peers play no part here."""

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from tests.benchmarks import measure
from tests.benchmarks.files import Shape
from tests.benchmarks.fleets import Fleet, fleet
from tests.benchmarks.load import User
from tests.benchmarks.paths import Running, Stage, our_router

_WARM_UP_CALLS = 3_000


@dataclass(frozen=True, slots=True)
class Variant:
    """One size. `bound` is the ratio of CPU a call to the first variant of its question that is still flat."""

    label: str
    shape: Shape = field(default_factory=Shape)
    replicas: int = 1
    bound: float = 1.15


@dataclass(frozen=True, slots=True)
class Question:
    """Variants that are compared with the first of them, under the same load."""

    name: str
    variants: tuple[Variant, ...]
    in_flight: int = 120


QUESTIONS = {
    "experiments": (
        Question(
            "experiments",
            (
                Variant("1 experiment"),
                Variant("10 in one layer", Shape(experiments=10)),
                Variant("50 in one layer", Shape(experiments=50)),
                Variant("50 layers", Shape(experiments=50, layered=True)),
            ),
        ),
    ),
    "overrides": (
        Question(
            "overrides",
            (
                Variant("none"),
                Variant("1,000", Shape(overrides=1_000)),
                Variant("100,000", Shape(overrides=100_000)),
            ),
        ),
    ),
    "groups": (Question("groups", (Variant("3"), Variant("10", Shape(groups=10)), Variant("30", Shape(groups=30)))),),
    "replicas": (
        Question("replicas of each version", (Variant("1"), Variant("8", replicas=8, bound=1.8))),
        Question("replicas of each version", (Variant("1"), Variant("32", replicas=32, bound=2.5)), in_flight=1_024),
    ),
}


@dataclass(slots=True)
class Answer:
    """What a variant cost, a figure for each round. Changed only by the run that fills it."""

    question: str
    in_flight: int
    variant: Variant
    router_us: list[float] = field(default_factory=list)
    total_us: list[float] = field(default_factory=list)
    batch: list[float] = field(default_factory=list)

    def ratio_to(self, first: "Answer") -> float:
        pairs = zip(self.total_us, first.total_us, strict=False)
        ratios = [mine / other for mine, other in pairs if other]
        return statistics.median(ratios) if ratios else math.nan


def ask(
    question: Question,
    directory: Path,
    *,
    transport: str,
    router_flags: tuple[str, ...],
    rounds: int,
    pass_cpu_s: float,
    say: Callable[[str], None],
) -> list[Answer]:
    """Runs all variants side by side, in turn, `rounds` times."""
    answers = [Answer(question.name, question.in_flight, variant) for variant in question.variants]
    with ExitStack() as stack:
        fleets: dict[int, Fleet] = {}
        running: list[tuple[Running, Fleet, list[User]]] = []
        for number, variant in enumerate(question.variants):
            say(f"{question.name}: starting {variant.label}")
            place = directory / f"{len(list(directory.iterdir()))}-{number}"
            place.mkdir()
            if variant.replicas not in fleets:
                fleets[variant.replicas] = stack.enter_context(fleet("identity", place, replicas=variant.replicas))
            workers = fleets[variant.replicas]
            router = our_router(
                Stage(place, workers.ports, variant.shape, router_flags), transport=transport, name=f"flat-{number}"
            )
            assert router.router is not None
            stack.callback(router.router.stop)
            running.append((router, workers, measure.find_users(router, workers)))
        total_us = [math.inf] * len(running)
        for number in range(rounds + 1):  # the first is a warm-up and tells how many calls a pass needs
            say(f"{question.name}: round {number} of {rounds}, {question.in_flight} in flight")
            for at, (router, workers, users) in enumerate(running):
                calls = max(_WARM_UP_CALLS, int(pass_cpu_s * 1e6 / total_us[at]))
                figures = measure.saturated(
                    router, workers, users, calls=calls, in_flight=question.in_flight, directory=directory
                )
                total_us[at] = max(1.0, figures.total_us)
                if number:
                    answers[at].router_us.append(figures.router_us)
                    answers[at].total_us.append(figures.total_us)
                    answers[at].batch.append(figures.batch_size or math.nan)
    return answers


def table(groups: Sequence[Sequence[Answer]]) -> Table:
    """Returns one table of all questions."""
    shown = Table(title="flat: CPU µs a call of our router and identity workers", title_justify="left")
    shown.add_column("question")
    for name in ("variant", "in flight", "router µs", "total µs", "batch", "× first", "bound"):
        shown.add_column(name, justify="right")
    for answers in groups:
        for answer in answers:
            first = answer is answers[0]
            shown.add_row(
                answer.question,
                answer.variant.label,
                str(answer.in_flight),
                f"{statistics.median(answer.router_us):.1f}",
                f"{statistics.median(answer.total_us):.1f}",
                f"{statistics.median(answer.batch):.1f}",
                "" if first else f"{answer.ratio_to(answers[0]):.2f}",
                "" if first else f"{answer.variant.bound:.2f}",
            )
    return shown


def as_json(groups: Sequence[Sequence[Answer]]) -> list[dict[str, object]]:
    """Returns the answers as plain values."""
    return [
        {
            "question": answer.question,
            "variant": answer.variant.label,
            "in_flight": answer.in_flight,
            "router_us": answer.router_us,
            "total_us": answer.total_us,
            "batch": answer.batch,
            "ratio_to_first": answer.ratio_to(answers[0]),
            "bound": answer.variant.bound,
        }
        for answers in groups
        for answer in answers
    ]
