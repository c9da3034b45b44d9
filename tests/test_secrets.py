"""What no code may do with outside bytes, and where a user's id never goes."""

import ast
import contextlib
import json
import re
import urllib.request
from pathlib import Path

import grpc
import pytest
from abfleet_protos.recommender_pb2 import Outcome, RecommendRequest, RecordRequest
from abfleet_protos.recommender_pb2_grpc import FeedbackStub, RecommenderStub

from tests.support.fleet import Fleet, experiments_file, wait_until

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("abfleet", "router", "worker", "transport", "experiments", "models", "dashboard", "compose")
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "os.system",
                   "os.popen", "numpy.load", "np.load"}  # fmt: skip
SAFE_LOADERS = {"Loader=SafeLoader", "Loader=yaml.SafeLoader", "Loader=CSafeLoader", "Loader=yaml.CSafeLoader"}
MARK = "marked-user-7c1e"


def offences(source: str) -> list[str]:
    """What a module imports or calls that makes code of data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"import {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            how = {f"{word.arg}={ast.unparse(word.value)}" for word in node.keywords}
            if name in FORBIDDEN_CALLS and not how & SAFE_LOADERS:
                found.append(name)
            if "shell=True" in how:
                found.append(f"{name}(shell=True)")
    return found


def test_the_check_finds_what_it_looks_for() -> None:
    """Each kind once, and not what only looks like it."""
    bad = "import pickle\nfrom dill import x\neval('1')\nyaml.load(a)\nyaml.load(a, Loader=Loader)\nrun(a, shell=True)"
    assert offences(bad) == ["import pickle", "import dill", "eval", "yaml.load", "yaml.load", "run(shell=True)"]
    assert offences("model.eval(1)\nyaml.safe_load(a)\nyaml.load(a, Loader=yaml.SafeLoader)\nre.compile('eval(')") == []


def test_no_code_makes_code_of_data() -> None:
    """No pickle and its kin, no eval, no loader of YAML that makes objects, no shell."""
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert len(paths) > 150
    found = {str(path.relative_to(ROOT)): offences(path.read_text()) for path in paths}
    assert {path: what for path, what in found.items() if what} == {}


def metrics(address: str) -> str:
    text: str = urllib.request.urlopen(f"http://{address}/metrics", timeout=20).read().decode()
    return text


def drive(fleet: Fleet) -> None:
    """Calls of every odd kind by one user, and what else names it."""
    long, items = MARK * 20, [1, 2, 3]
    raw = b"\x12" + bytes([len(MARK) + 1]) + MARK.encode() + b"\xff"  # a user id that is not UTF-8
    with grpc.insecure_channel(fleet.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        recommend = RecommenderStub(channel).Recommend
        for how in (
            {"user_id": MARK}, {"user_id": long}, {"user_id": MARK + "\n"}, {"user_id": MARK, "limit": 1000},
            {"user_id": MARK, "request_id": long}, {"user_id": MARK, "attributes": {MARK: long}},
        ):  # fmt: skip
            with contextlib.suppress(grpc.RpcError):
                recommend(RecommendRequest(item_ids=items, **how), timeout=20)
        for metadata in ((("x-user-id", MARK),), (("x-user-id-bin", MARK.encode() + b"\xff"),), (("x-user-id", long),)):
            with contextlib.suppress(grpc.RpcError):
                recommend(RecommendRequest(item_ids=items), timeout=20, metadata=metadata)
        with contextlib.suppress(grpc.RpcError):
            channel.unary_unary("/Recommender/Recommend")(raw, timeout=20)
        with contextlib.suppress(grpc.RpcError):
            recommend(RecommendRequest(user_id=MARK, item_ids=items), timeout=0.0005)
        recommend.future(RecommendRequest(user_id=MARK, item_ids=items)).cancel()
        outcomes = [
            Outcome(outcome_id=f"o-{number}", user_id=user, type=kind)
            for number, (user, kind) in enumerate(((MARK, "click"), (long, "click"), (MARK, MARK), (MARK, "purchase")))
        ]
        FeedbackStub(channel).Record(RecordRequest(outcomes=outcomes), timeout=20)
        fleet.workers["v1.2.3", 0].kill()  # and a call that finds nobody
        with contextlib.suppress(grpc.RpcError):
            recommend(RecommendRequest(user_id=MARK, item_ids=items), timeout=20)
    with grpc.insecure_channel(fleet.worker_addresses["v1.3.0-beta", 0]) as channel:
        for payload in (RecommendRequest(user_id=MARK, limit=1000).SerializeToString(), raw):
            with contextlib.suppress(grpc.RpcError):
                channel.unary_unary("/Recommender/Recommend")(payload, timeout=20)


@pytest.mark.system
@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_a_users_id_is_in_the_decision_log_alone(tmp_path: Path, transport: str) -> None:
    """Not in metrics, not in what router and workers say about themselves at level debug, whatever a call is like."""
    loud = ("--log-level", "debug", "--log-format", "json")
    with Fleet(
        tmp_path, experiments=experiments_file(100, 0, 0), versions=("v1.2.3", "v1.3.0-beta"), transport=transport,
        router_flags=loud, worker_flags=(*loud, "--metrics-port", "0"),
    ) as fleet:  # fmt: skip
        fleet.wait_for_serving("v1.2.3")
        drive(fleet)
        wait_until(lambda: any(MARK in json.dumps(line) for line in fleet.log()), "the user in the decision log")
        said = {path.name: path.read_text() for path in tmp_path.glob("*.stderr")}
        ports = [re.search(r'"metrics":\s*(\d+)', text) for name, text in said.items() if "v1.3.0-beta" in name]
        assert ports, "the worker wrote no log"
        assert ports[0] is not None, "the worker says where its metrics are"
        said |= {"router metrics": metrics(fleet.metrics_address), "worker": metrics(f"127.0.0.1:{ports[0][1]}")}
    said |= {f"{path.name} at the end": path.read_text() for path in tmp_path.glob("*.stderr")}
    assert all(said.values())
    assert [name for name, text in said.items() if MARK in text] == []
