"""A worker as a real process for tests: started, awaited, always ended."""

import os
import queue
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from abfleet_protos import recommender_pb2, worker_pb2
from abfleet_worker.service import RECOMMEND, RECOMMEND_BATCH
from prometheus_client.parser import text_string_to_metric_families

PATIENCE_SECONDS = 60
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


@dataclass
class WorkerProcess:
    """A running worker and the clients to it."""

    process: "subprocess.Popen[str]"
    address: str
    version: str
    channel: grpc.Channel
    errors: Path
    """What it wrote on stderr."""

    def recommend(self, request: recommender_pb2.RecommendRequest) -> recommender_pb2.RecommendResponse:
        """One call of Recommender/Recommend."""
        call = self.channel.unary_unary(
            RECOMMEND,
            recommender_pb2.RecommendRequest.SerializeToString,
            recommender_pb2.RecommendResponse.FromString,
        )
        answer: recommender_pb2.RecommendResponse = call(request, timeout=PATIENCE_SECONDS)
        return answer

    def start_batch(self, payloads: list[bytes]) -> "grpc.Future":
        """Sends one RecommendBatch and gives its future."""
        call = self.channel.unary_unary(
            RECOMMEND_BATCH,
            worker_pb2.RecommendBatchRequest.SerializeToString,
            worker_pb2.RecommendBatchResponse.FromString,
        )
        return call.future(worker_pb2.RecommendBatchRequest(requests=payloads), timeout=PATIENCE_SECONDS)

    def metric(self, name: str, **labels: str) -> float:
        """A sample of /metrics, 0 where there is none."""
        port = next(line for line in self.errors.read_text().splitlines() if '"metrics": ' in line)
        port = port.split('"metrics": ')[1].split(",")[0].rstrip("}")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_SECONDS) as response:
            families = text_string_to_metric_families(response.read().decode())
        for family in families:
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0


def environment(tmp_path: Path) -> dict[str, str]:
    """The tests' environment without settings of a worker, with temporary files under `tmp_path`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ABFLEET_")}
    return clean | {"TMPDIR": str(tmp_path)}


def run_to_end(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs a worker that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "abfleet_worker", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=environment(tmp_path),
        check=False,
    )


@contextmanager
def running_worker(
    tmp_path: Path, registry: Path, *arguments: str, listen: str = "127.0.0.1:0"
) -> Iterator[WorkerProcess]:
    """A worker that has said `ready`; killed at the end if the test did not stop it."""
    errors = tmp_path / "stderr"
    command = [sys.executable, "-m", "abfleet_worker", "--registry", str(registry), "--listen", listen]
    with errors.open("w") as stream:
        process = subprocess.Popen(
            [*command, "--metrics-port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env=environment(tmp_path),
        )
    try:
        ready = _first_line(process)
        assert ready.startswith("ready "), (ready, errors.read_text())
        _, address, word, version = ready.split()
        assert word == "version"
        with grpc.insecure_channel(address, options=OPTIONS) as channel:
            yield WorkerProcess(process, address, version, channel, errors)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=lambda out: lines.put(out.readline()), args=(process.stdout,), daemon=True)
    reader.start()
    line = lines.get(timeout=PATIENCE_SECONDS)
    reader.join()
    return line
