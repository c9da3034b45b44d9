"""What a call of `ModelInfer` costs beside one of `Recommend` on the same model, and in a crowd beside alone.

Router and workers are processes of ours; the load is h2load's. Ways of asking take turns in short rounds, and a ratio
is the median of the ratios within rounds, so that what else the machine does hits both sides of it.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from abfleet_protos.inference_pb2 import ModelInferRequest
from abfleet_protos.recommender_pb2 import RecommendRequest
from rich.table import Table

from tests.benchmarks import load
from tests.benchmarks.fleets import REAL_VERSION
from tests.benchmarks.load import User
from tests.benchmarks.measure import WrongAnswers
from tests.benchmarks.paths import ROOT, environment
from tests.benchmarks.processes import Child, free_port, usage
from tests.benchmarks.sender import Sender
from tests.support.small_graphs import add_model, classifier
from tests.support.tiny_model import add_version

RECOMMEND, MODEL_INFER = load.METHOD_PATH, "/inference.GRPCInferenceService/ModelInfer"
DEARER, CROWD = 1.2, 0.5
"""Bounds: CPU a call of ModelInfer / Recommend; of a call among 32 / alone."""
_HISTORY = range(1, 21)
_TINY_ITEMS = 10
_USERS = 12
_WARM_UP_CALLS = 600
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Way:
    """One way of asking a fleet."""

    name: str
    method: str
    payload: bytes
    in_flight: int


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU µs a call, in one round."""

    question: str
    way: str
    router_us: float
    workers_us: float

    @property
    def total_us(self) -> float:
        return self.router_us + self.workers_us


@dataclass(frozen=True, slots=True)
class Question:
    """Two ways of asking one model: what the second costs is divided by what the first does."""

    name: str
    models: Callable[[Path], tuple[Path, str]]
    """A registry, made in a folder where it is not there, and the version."""
    ways: tuple[Way, Way]
    bound: float
    log: str | None = None
    """The output that the log has as items, as it has those of Recommend."""


def run(
    directory: Path, *, rounds: int, calls: int, router_flags: Sequence[str], say: Callable[[str], None]
) -> list[Cost]:
    """Every question, `rounds` times `calls` calls each way. Raises NotStarted, WrongAnswers."""
    found: list[Cost] = []
    for question in QUESTIONS:
        folder = directory / question.name.replace(" ", "-")
        folder.mkdir()
        with _fleet(question, folder, router_flags) as (port, router, worker):
            for way in question.ways:
                _check(port, way)
            for number in range(rounds):
                say(f"{question.name}: round {number + 1} of {rounds}")
                ways = question.ways if number % 2 == 0 else question.ways[::-1]
                found += [_cost(question, way, port, router, worker, calls, folder) for way in ways]
    return found


def ratio(found: Sequence[Cost], question: Question) -> float:
    """The median over the rounds of second / first way."""
    first, second = (
        [one for one in found if (one.question, one.way) == (question.name, way.name)] for way in question.ways
    )
    return statistics.median(two.total_us / one.total_us for one, two in zip(first, second, strict=True))


def table(found: Sequence[Cost]) -> Table:
    """One row for each way of asking."""
    shown = Table("model", "asked by", "in flight", "router µs", "worker µs", "total µs", "× first", "bound")
    for question in QUESTIONS:
        for number, way in enumerate(question.ways):
            mine = [one for one in found if (one.question, one.way) == (question.name, way.name)]
            figures = [
                f"{statistics.median(getattr(one, name) for one in mine):.1f}"
                for name in ("router_us", "workers_us", "total_us")
            ]
            compared = [f"{ratio(found, question):.2f}", f"{question.bound:g}"] if number else ["", ""]
            shown.add_row(question.name if not number else "", way.name, str(way.in_flight), *figures, *compared)
    return shown


def _requests(port: int, way: Way) -> list[User]:
    return [User(f"user-{number}", port, way.payload, way.method) for number in range(min(_USERS, way.in_flight))]


def _check(port: int, way: Way) -> None:
    """Warms up, and reads every status, which h2load does not."""
    sender = Sender([user.request for user in _requests(port, way)], connections=4)
    try:
        outcome = sender.in_flight(_WARM_UP_CALLS, at_once=min(32, way.in_flight))
    finally:
        sender.close()
    if outcome.ok != _WARM_UP_CALLS:
        raise WrongAnswers(f"{way.name}: {_WARM_UP_CALLS - outcome.ok} of {_WARM_UP_CALLS} calls were not OK")


def _cost(question: Question, way: Way, port: int, router: Child, worker: Child, calls: int, folder: Path) -> Cost:
    # One at a time costs many times as much a call, and is as exact with fewer.
    calls = calls if way.in_flight > 1 else calls // 5
    router_before, worker_before = usage([router]), usage([worker])
    done = load.saturate(_requests(port, way), calls=calls, in_flight=way.in_flight, directory=folder, timeout_s=120)
    router_s, worker_s = usage([router]).since(router_before), usage([worker]).since(worker_before)
    if done.failed:
        raise WrongAnswers(f"{way.name}: {done.failed} calls without HTTP 200")
    return Cost(question.name, way.name, router_s / done.calls * 1e6, worker_s / done.calls * 1e6)


@contextmanager
def _fleet(question: Question, folder: Path, router_flags: Sequence[str]) -> Iterator[tuple[int, Child, Child]]:
    """Port of a router with one worker behind, and both."""
    port, worker_port = free_port(), free_port()
    registry, version = question.models(folder)
    document = {
        "version": 1,
        "default": version,
        "models": {version: {"target": f"127.0.0.1:{worker_port}"}},
        **({"log": {"items": question.log}} if question.log else {}),
        "experiments": [
            {
                "name": "one",
                "groups": [{"name": name, "model": version, "weight": 50} for name in ("control", "treatment")],
            }
        ],
    }
    experiments = folder / "experiments.yaml"
    experiments.write_text(json.dumps(document))
    worker_argv = ["--registry", registry, "--version", version, "--listen", f"127.0.0.1:{worker_port}"]
    router_argv = ["--experiments", experiments, "--listen", f"127.0.0.1:{port}", "--log-dir", folder / "logs"]
    router_argv += ["--admin-listen", "127.0.0.1:0", "--metrics-port", "0", *router_flags]
    with ExitStack() as stack:
        children = []
        for name, argv in (("worker", [*worker_argv, "--metrics-port", "0"]), ("router", router_argv)):
            child = Child.start(
                name, _command(f"abfleet_{name}", argv), directory=folder, environment=environment(), cwd=ROOT
            )
            stack.callback(child.stop)
            child.wait_for_line(r"\bready\b", timeout_s=_START_S)
            children.append(child)
        yield port, children[1], children[0]


def _command(module: str, argv: Sequence[object]) -> list[str | Path]:
    return [sys.executable, "-m", module, *map(str, argv)]


def _tiny(folder: Path) -> tuple[Path, str]:
    add_version(folder / "models", "v1.0.0", k=_TINY_ITEMS)
    return folder / "models", "v1.0.0"


def _real(_folder: Path) -> tuple[Path, str]:
    return ROOT / "models", REAL_VERSION


def _classifier(folder: Path) -> tuple[Path, str]:
    add_model(folder / "models", "v1.0.0", classifier())
    return folder / "models", "v1.0.0"


def _infer(name: str, datatype: str, array: np.ndarray) -> bytes:
    message = ModelInferRequest(model_name="recommender", raw_input_contents=[array.tobytes()])
    message.inputs.add(name=name, datatype=datatype, shape=array.shape)
    encoded: bytes = message.SerializeToString()
    return encoded


_REAL_ITEMS = 100
"""That the shipped recommender gives at most. Recommend asks for all of them here, because ModelInfer gets them all."""
_HISTORY_TENSOR = _infer("history", "INT64", np.array([_HISTORY], np.int64))
_FEATURES = _infer("features", "FP32", np.linspace(0, 1, 5, dtype=np.float32)[None, :])


def _both(items: int) -> tuple[Way, Way]:
    recommend = RecommendRequest(item_ids=_HISTORY, limit=items).SerializeToString()
    return Way("Recommend", RECOMMEND, recommend, 120), Way("ModelInfer", MODEL_INFER, _HISTORY_TENSOR, 120)


QUESTIONS = (
    Question("recommender that adds", _tiny, _both(_TINY_ITEMS), DEARER, "item_ids"),
    Question(f"recommender {REAL_VERSION}", _real, _both(_REAL_ITEMS), DEARER, "item_ids"),
    Question(
        "classifier of 5 features",
        _classifier,
        (Way("ModelInfer, alone", MODEL_INFER, _FEATURES, 1), Way("ModelInfer, 32", MODEL_INFER, _FEATURES, 32)),
        CROWD,
    ),
)
