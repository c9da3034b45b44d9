"""The workers that all paths share: identity, the real model, a dense scorer. Knows our worker's command line."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.benchmarks.files import VERSIONS
from tests.benchmarks.identity_worker import COUNTS, COUNTS_METHOD
from tests.benchmarks.paths import ROOT, environment
from tests.benchmarks.processes import Child, free_port

REAL_VERSION = VERSIONS[0]
DENSE_ITEMS, DENSE_FACTORS, DENSE_TOP, DENSE_SEED = 10_000, 128, 10, 7
_START_S = 60.0


class NoFleet(Exception):
    """These workers cannot be started here; the message says why."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the identity workers have answered."""

    unary: int
    batches: int
    batched: int

    def since(self, earlier: "Counts") -> "Counts":
        return Counts(self.unary - earlier.unary, self.batches - earlier.batches, self.batched - earlier.batched)

    @property
    def calls(self) -> int:
        return self.unary + self.batched

    @property
    def batch_size(self) -> float:
        return self.batched / self.batches if self.batches else 1.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """Workers that run: version -> ports of its replicas."""

    model: str
    ports: dict[str, list[int]]
    children: list[Child]
    model_file: Path | None = None

    def counts(self) -> Counts | None:
        """Asks every identity worker; None for other models, which do not tell."""
        if self.model != "identity":
            return None
        rows = [_counts(port) for ports in self.ports.values() for port in ports]
        return Counts(*(sum(column) for column in zip(*rows, strict=True)))


@contextmanager
def fleet(model: str, directory: Path, *, replicas: Mapping[str, int] | int = 1) -> Iterator[Fleet]:
    """Runs the workers of `model`; stops them at the end. Raises NoFleet, NotStarted."""
    many = {version: replicas if isinstance(replicas, int) else replicas[version] for version in VERSIONS}
    model_file, arguments = _prepare(model, directory)
    with ExitStack() as stack:
        children: list[Child] = []
        ports: dict[str, list[int]] = {version: [] for version in VERSIONS}
        for version, count in many.items():
            for number in range(count):
                port = free_port()
                argv = [sys.executable, *arguments, "--version", version, "--listen", f"127.0.0.1:{port}"]
                if model not in ("identity", "unbatched"):
                    argv += ["--metrics-port", "0"]
                child = Child.start(
                    f"{model}-{version}-{number}", argv, directory=directory, environment=environment(), cwd=ROOT
                )
                stack.callback(child.stop)
                children.append(child)
                ports[version].append(port)
        for child in children:
            child.wait_for_line(r"\bready\b", timeout_s=_START_S)
        yield Fleet(model, ports, children, model_file)


@contextmanager
def unbatched_fleet(model_file: Path, directory: Path) -> Iterator[Fleet]:
    """Runs one worker for each version that infers call by call from the same ONNX file."""
    with ExitStack() as stack:
        children, ports = [], {}
        for version in VERSIONS:
            port = free_port()
            argv = [sys.executable, "-m", "tests.benchmarks.unbatched_worker", "--model", model_file]
            argv += ["--version", version, "--listen", f"127.0.0.1:{port}"]
            child = Child.start(f"unbatched-{version}", argv, directory=directory, environment=environment(), cwd=ROOT)
            stack.callback(child.stop)
            children.append(child)
            ports[version] = [port]
        for child in children:
            child.wait_for_line(r"\bready\b", timeout_s=_START_S)
        yield Fleet("unbatched", ports, children, model_file)


def write_dense_model(path: Path) -> None:
    """Writes a scorer of 10,000 items: the sum of the history's vectors times every item's vector, then the top 10.

    Graph: history int64[batch, length] (0 pads) -> item_ids int64[batch, 10], scores float32[batch, 10]. One row alone
    has to read all 5 MB of weights; in a batch the rows share that, which is what batching is for.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(DENSE_SEED)
    vectors = draw.standard_normal((DENSE_ITEMS, DENSE_FACTORS)).astype(np.float32)
    padded = np.concatenate([np.zeros((1, DENSE_FACTORS), np.float32), vectors])  # row 0 is the padding
    constants = {
        "padded": padded,
        "transposed": np.ascontiguousarray(vectors.T),
        "lowest": np.array(0, np.int64),
        "highest": np.array(DENSE_ITEMS, np.int64),
        "axis": np.array([1], np.int64),
        "k": np.array([DENSE_TOP], np.int64),
        "one": np.array(1, np.int64),
    }
    nodes = [
        helper.make_node("Clip", ["history", "lowest", "highest"], ["rows"]),
        helper.make_node("Gather", ["padded", "rows"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "axis"], ["taste"], keepdims=0),
        helper.make_node("MatMul", ["taste", "transposed"], ["all_scores"]),
        helper.make_node("TopK", ["all_scores", "k"], ["scores", "columns"], axis=1),
        helper.make_node("Add", ["columns", "one"], ["item_ids"]),
    ]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("history", TensorProto.INT64, ["batch", "length"])],
        [
            helper.make_tensor_value_info("item_ids", TensorProto.INT64, ["batch", DENSE_TOP]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", DENSE_TOP]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _prepare(model: str, directory: Path) -> tuple[Path | None, list[str]]:
    """Returns the ONNX file and the command line of a worker, without version and port."""
    if model == "identity":
        return None, ["-m", "tests.benchmarks.identity_worker"]
    if not (ROOT / "worker" / "abfleet_worker" / "__main__.py").exists():
        raise NoFleet("abfleet_worker cannot be started yet")
    if not (ROOT / "models" / REAL_VERSION / "metadata.json").exists():
        raise NoFleet(f"models/{REAL_VERSION} is not there")
    registry = directory / f"registry-{model}"
    source = ROOT / "models" / REAL_VERSION / "model.onnx"
    if model == "dense":
        source = directory / "dense.onnx"
        write_dense_model(source)
    _write_registry(registry, source)
    return source, ["-m", "abfleet_worker", "--registry", str(registry)]


def _write_registry(registry: Path, model_file: Path) -> None:
    """Writes a registry in which every version is the same model, so that the split alone tells the pools apart."""
    import hashlib

    template = json.loads((ROOT / "models" / REAL_VERSION / "metadata.json").read_text())
    digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
    golden = _golden(model_file, template["golden"])
    top = len(golden["item_ids"][0])
    signature = template["signature"]
    outputs = [{**output, "shape": ["batch", top]} for output in signature["outputs"]]
    for version in VERSIONS:
        folder = registry / version
        folder.mkdir(parents=True)
        shutil.copyfile(model_file, folder / "model.onnx")
        metadata = {
            **template,
            "version": version,
            "sha256": digest,
            "size_bytes": model_file.stat().st_size,
            "signature": {**signature, "outputs": outputs, "k": top},
            "golden": golden,
        }
        (folder / "metadata.json").write_text(json.dumps(metadata))
        metrics = {"schema": 1, "version": version, "metrics": {}}
        (folder / "metrics.json").write_text(json.dumps(metrics))


def _golden(model_file: Path, template: dict) -> dict:
    """Returns the golden answer of this file for the template's histories."""
    import numpy as np
    from abfleet_models.runtime import onnxruntime

    session = onnxruntime.InferenceSession(str(model_file), providers=["CPUExecutionProvider"])
    history = np.array(template["history"], dtype=np.int64)
    item_ids, scores = session.run(["item_ids", "scores"], {"history": history})
    return {**template, "item_ids": item_ids.tolist(), "scores": scores.tolist()}


def _counts(port: int) -> tuple[int, int, int]:
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        return COUNTS.unpack(channel.unary_unary(COUNTS_METHOD)(b"", timeout=10, wait_for_ready=True))
