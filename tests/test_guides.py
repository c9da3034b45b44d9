"""docs/guides, done: each block runs, two models go all the way, a worker of one's own and other clients are served."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from abfleet_client import SERVICE_CONFIG
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from abfleet_protos.inference_pb2_grpc import GRPCInferenceServiceStub

from tests.benchmarks.processes import free_port
from tests.support.fleet import Fleet
from tests.support.guides import ADDRESS, MODELS, Model, Newcomer, blocks, files, skip_if_missing
from tests.support.node_tools import node
from tests.support.process import ROOT
from tests.support.up import run_abfleet

pytestmark = pytest.mark.system
WHOLE = ("recommender of factors", "classifier of five features")
FEATURES = np.array([[1, 2, 3, 4], [0, 0, 0, 1]], np.float32)
WORKER_LISTENS = "127.0.0.1:50071"


@pytest.mark.parametrize("model", [one for one in MODELS if one.name not in WHOLE], ids=lambda model: model.name)
def test_a_model_is_made_and_added(model: Model, tmp_path: Path) -> None:
    """The blocks of its guide, and the first step of the first experiment."""
    skip_if_missing(model)
    newcomer = Newcomer(model, tmp_path)
    newcomer.make()
    said = newcomer.add()
    assert "v1.0.0 is added" in said
    assert "v2.0.0 is added" in said
    assert ("is a recommender" in said) == model.is_recommender


@pytest.mark.parametrize("model", [one for one in MODELS if one.name in WHOLE], ids=lambda model: model.name)
def test_a_model_goes_all_the_way(model: Model, tmp_path: Path) -> None:
    """Every step of the first experiment, with fewer users; at full length: `./run prove own-models`."""
    skip_if_missing(model)
    newcomer = Newcomer(model, tmp_path, users=120)
    newcomer.make()
    newcomer.add()
    newcomer.configure()
    newcomer.serve_and_call()
    tail, today, later = newcomer.conclude()
    assert tail
    assert "first: KEEP RUNNING" in today
    assert re.search(r"120 users \(.* planned\).* 1 of 1 look\n", later)
    assert re.search(rf"{'ctr' if model.is_recommender else 'conversion_rate'} +primary +0\.\d+ +0\.\d+", later)


# --- a worker of one's own, and other clients ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The page's worker behind a real router, beside abfleet's own with the example of `models init`."""
    folder = tmp_path_factory.mktemp("own-worker")
    for words in (("init", "example"), ("add", "example", "--registry", "models")):
        (folder / "models").mkdir(exist_ok=True)
        done = run_abfleet("models", *words, folder=folder)
        assert done.returncode == 0, done.stderr
    address = f"127.0.0.1:{free_port()}"
    script = folder / "worker.py"
    script.write_text(files("own-worker.md")["worker.py"].replace(WORKER_LISTENS, address))
    (experiments,) = [text for language, text in blocks("own-worker.md") if language == "yaml"]
    with (folder / "worker.log").open("w") as log:
        worker = subprocess.Popen([sys.executable, script], stdout=log, stderr=log)
        try:
            with Fleet(
                folder,
                experiments=experiments.replace(WORKER_LISTENS, address),
                registry=folder / "models",
                versions=["v0.1.0"],
            ) as running:
                running.wait_for_serving("mine")
                yield running
        finally:
            worker.kill()
            worker.wait()


def ask(fleet: Fleet, user: str, features: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> ModelInferResponse:
    message = ModelInferRequest(model_name="recommender", raw_input_contents=[features.tobytes()])
    message.inputs.add(name="features", datatype="FP32", shape=features.shape)
    with grpc.insecure_channel(fleet.address) as channel:
        answer: ModelInferResponse = GRPCInferenceServiceStub(channel).ModelInfer(
            message, timeout=30, metadata=(("x-user-id", user),)
        )
    return answer


def test_a_worker_of_ones_own_is_served(fleet: Fleet) -> None:
    """Its users get its answers, the others the example's; its refusal reaches the caller; the log says who served."""
    scores = {"mine": np.tanh(FEATURES.sum(axis=1)), "v0.1.0": FEATURES @ np.array([0.5, -0.25, 0.125, 1], np.float32)}
    theirs = ""
    for number in range(20):
        answer = ask(fleet, f"user-{number}", FEATURES)
        got = np.frombuffer(answer.raw_output_contents[0], np.float32)
        assert np.allclose(got, scores.pop(answer.model_version, got))
        theirs = f"user-{number}" if answer.model_version == "mine" else theirs
    assert scores == {}
    with pytest.raises(grpc.RpcError) as refused:
        ask(fleet, theirs, FEATURES[:, :3].copy())
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "one input FP32[-1, 4] is allowed" in refused.value.details()
    served = {line["served_version"] for line in fleet.exposures(21)}
    assert served == {"mine", "v0.1.0", None}


def test_the_worker_has_the_lines_that_were_promised() -> None:
    """It is some thirty lines."""
    code = [line for line in files("own-worker.md")["worker.py"].splitlines() if line.strip()]
    assert len(code) <= 31


def test_the_retries_that_are_shown_are_those_of_our_own_client() -> None:
    """In the block of JSON, and in the program in Go; the Java program has the same values."""
    (shown,) = [json.loads(text) for language, text in blocks("clients.md") if language == "json"]
    (policy,) = [method["retryPolicy"] for method in shown["methodConfig"]]
    (ours,) = [method["retryPolicy"] for method in json.loads(SERVICE_CONFIG)["methodConfig"]]
    assert policy == ours
    (go,) = [text for language, text in blocks("clients.md") if language == "go"]
    assert json.loads(re.findall(r"`(.*?)`", go, re.DOTALL)[0]) == shown
    (java,) = [text for language, text in blocks("clients.md") if language == "java"]
    assert all(f'"{name}"' in java for name in policy)


def test_javascript_calls_a_router(fleet: Fleet, tmp_path: Path) -> None:
    """The block of the page about clients."""
    (text,) = [text for language, text in blocks("clients.md") if language == "js"]
    script = tmp_path / "call.js"
    text = text.replace(ADDRESS, fleet.address).replace("'protos/", f"'{ROOT}/protos/")
    script.write_text(text)
    printed = node(script, "")
    version, scores = printed.split(" ", 1)
    wanted = {"mine": np.tanh(FEATURES.sum(axis=1)), "v0.1.0": [4.375, 1.0]}[version]
    assert np.allclose(json.loads(scores), wanted)
