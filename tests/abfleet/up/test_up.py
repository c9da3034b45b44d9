"""`abfleet up` with real processes: the way in, what it survives, what it follows, and that it leaves nothing."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from abfleet_client import CHANNEL_OPTIONS
from abfleet_process.build_info import build_info
from abfleet_protos import recommender_pb2, recommender_pb2_grpc

from tests.support.fleet import experiments_file, status_of, wait_until
from tests.support.process import Process
from tests.support.tiny_model import add_version, expected
from tests.support.up import ANY_PORTS, START_SECONDS, STOP_SECONDS, Up, run_abfleet, tiny_models, without_flags

pytestmark = pytest.mark.system
SEED = [1, 2, 3, 10, 15]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("registry"))


def small_file(default: str = "v1.2.3") -> str:
    """One version and no experiment, for what does not depend on more."""
    return json.dumps({"version": 1, "default": default, "models": {"v1.2.3": {"target": "dns:///v1.invalid:1"}}})


def call(address: str, user_id: str = "", timeout: float = 10.0) -> recommender_pb2.RecommendResponse:
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        request = recommender_pb2.RecommendRequest(item_ids=SEED, user_id=user_id)
        return recommender_pb2_grpc.RecommenderStub(channel).Recommend(request, timeout=timeout)


def pools(up: Up) -> dict[str, int]:
    """Version to replicas that are in."""
    return {pool.version: pool.available for pool in status_of(up.admin_address).pools}


@contextmanager
def traffic(address: str) -> Iterator[Callable[[int], list[str]]]:
    """Calls one after the other for ever new users. The function gives the failures after that many more."""
    failures: list[str] = []
    count, stop = 0, threading.Event()

    def run() -> None:
        nonlocal count
        with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            stub = recommender_pb2_grpc.RecommenderStub(channel)
            while not stop.is_set():
                request = recommender_pb2.RecommendRequest(item_ids=SEED, user_id=f"u{count}", request_id=f"r{count}")
                try:
                    stub.Recommend(request, timeout=10)
                except grpc.RpcError as error:
                    failures.append(str(error))
                count += 1

    def more(calls: int) -> list[str]:
        target = count + calls
        wait_until(lambda: count >= target, f"{calls} more calls")
        return failures

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield more
    finally:
        stop.set()
        thread.join()


def test_it_serves_and_leaves_nothing(tmp_path: Path, registry: Path) -> None:
    """After `ready` the seed's call answers at once; after Ctrl-C under traffic no process and no folder are left."""
    with Up(tmp_path, registry) as up:
        up.ready()
        answer = call(up.address)
        assert list(answer.item_ids) == expected(SEED, 0)[0]
        assert answer.model_version == "v1.2.3"
        assert call(up.address, "user-1").experiment == "homepage-ranking"
        assert pools(up) == {"v1.2.3": 1, "v1.3.0-beta": 1, "v1.4.0-rc1": 1}
        children = up.children()
        assert len(children) == 4
        assert (tmp_path / ".abfleet" / f"run-{up.popen.pid}" / "fleet.yaml").exists()
        with traffic(up.address) as more:
            more(20)
            up.interrupt()
            assert up.ended() == 0, up.text
        assert psutil.wait_procs(children, timeout=0)[1] == []
    assert not (tmp_path / ".abfleet").exists()
    exposures = [line for path in (tmp_path / "logs").glob("decisions-*") for line in path.read_text().splitlines()]
    assert len(exposures) > 20


def test_an_offset_moves_every_fixed_port_and_ready_and_the_end_say_what_to_do_next(
    tmp_path: Path, registry: Path
) -> None:
    """A second fleet beside the first: each address that is printed has the offset, and so have the commands that are
    named. At the end it says what came of it, where the log is, and how to look at it."""
    offset = 7
    router, admin, worker = (port - offset for port in free_ports(3))
    ports = ("--listen", f"127.0.0.1:{router}", "--admin-listen", f"127.0.0.1:{admin}", "--dashboard-port", "off")
    flags = (
        "--metrics-port",
        "0",
        "--worker-port",
        str(worker),
        "--log-dir",
        "the logs",
        "--port-offset",
        str(offset),
    )
    with Up(tmp_path, registry, *flags, experiments=small_file(), ports=ports) as up:
        up.ready()
        assert (up.address, up.admin_address) == (f"127.0.0.1:{router + offset}", f"127.0.0.1:{admin + offset}")
        up.wait_for(rf"^worker-v1.2.3 ready 127.0.0.1:{worker + offset}$")
        up.wait_for(rf"^  abfleet client .*--address {up.address} ")
        up.wait_for(rf"^  abfleet status --admin {up.admin_address} ")
        up.wait_for(r"^  abfleet analyze --logs 'the logs' --experiments \S+experiments.yaml ")
        for user in range(5):
            call(up.address, f"user-{user}")
        up.interrupt()
        assert up.ended() == 0, up.text
        up.wait_for(r"^served 5 calls in \d+ s: 0 failed, 0 answered by the default version as a fallback$")
        up.wait_for(r"^recorded 0 outcomes; wrote \d+ lines to the decision log in the logs/$")
        up.wait_for(r"^next: abfleet analyze --logs 'the logs' --experiments \S+experiments.yaml$")


HEAVY = {
    "duckdb",
    "ibis",
    "numpy",
    "onnxruntime",
    "pandas",
    "prometheus_client",
    "pyarrow",
    "rich",
    "scipy",
    "structlog",
}
"""Libraries that a question to a router has no use for, where its answer goes to a pipe."""
MODULES = "import sys; print('loaded', *sorted({name.partition('.')[0] for name in sys.modules}))"


def test_what_asks_a_fleet_is_light_and_names_the_build(tmp_path: Path, registry: Path) -> None:
    """`status` and `client` answer without a library that they do not need. Version and commit are in the status, for
    people and as JSON, and in the metrics of router and worker."""
    build = build_info()
    with Up(tmp_path, registry, experiments=small_file()) as up:
        up.ready()
        environment = without_flags() | {"ABFLEET_ADDRESS": up.address, "ABFLEET_ADMIN": up.admin_address}

        def asked(*words: str) -> str:
            code = (
                f"from abfleet.cli import app\ntry: app({list(words)})\nexcept SystemExit as end: assert not end.code"
            )
            done = subprocess.run(
                [sys.executable, "-c", f"{code}\n{MODULES}"],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            shown, _, loaded = done.stdout.rpartition("loaded ")
            assert HEAVY & set(loaded.split()) == set(), words
            return shown

        assert "served by v1.2.3" in asked("client", "--user-id", "user-1", "--items", "1,2,3")
        assert f"abfleet {build.version} ({build.revision}) {build.form}, Python {build.python}" in asked("status")
        assert json.loads(asked("status", "--json"))["build"] == {
            "version": build.version,
            "revision": build.revision,
            "python": build.python,
            "grpcio": build.grpcio,
            "form": build.form,
        }
        revision = json.loads(asked("status", "--json"))["config"]["revision"]
        file = str(up.experiments_path)
        assert asked("plan", file, file).startswith(f"{revision} -> {revision} "), "with the fleet file or without"
        metrics = up.wait_for(r"^ready .* metrics (\S+)").group(1)
        text = urllib.request.urlopen(f"http://{metrics}/metrics", timeout=20).read().decode()
        assert f'abfleet_build_info{{form="{build.form}",grpcio="{build.grpcio}"' in text
        assert f'revision="{build.revision}",version="{build.version}"}} 1.0' in text


def free_ports(count: int) -> list[int]:
    """Ports that nobody had just now."""
    with contextlib.ExitStack() as sockets:
        found = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


def test_the_router_drains_before_the_workers_stop(tmp_path: Path, registry: Path) -> None:
    """While a router has yet to end, its workers go on answering; they end after it."""
    with Up(tmp_path, registry, experiments=small_file()) as up:
        up.ready()
        worker = up.wait_for(r"worker-v1.2.3 ready (\S+)").group(1)
        router = up.child("abfleet_router")
        router.suspend()  # as one that is busy draining
        up.interrupt()
        up.wait_for("stopping")
        assert list(call(worker).item_ids) == expected(SEED, 0)[0]
        router.resume()
        assert up.ended() == 0, up.text


def test_what_is_stuck_is_killed(tmp_path: Path, registry: Path) -> None:
    """A worker and a router that do not react are killed when their time is up, and that is said."""
    with Up(tmp_path, registry, "--", "--drain-timeout", "0.2", experiments=small_file()) as up:
        up.ready()
        children = up.children()
        up.child("abfleet_router").suspend()
        up.child("abfleet_worker").suspend()
        up.interrupt()
        up.wait_for("some processes were killed", STOP_SECONDS)
        assert up.ended() == 0
        assert psutil.wait_procs(children, timeout=0)[1] == []


def test_a_second_interrupt_does_not_wait(tmp_path: Path, registry: Path) -> None:
    """With an hour to drain and a router that does not react, a second Ctrl-C ends everything."""
    with Up(tmp_path, registry, "--", "--drain-timeout", "3600", experiments=small_file()) as up:
        up.ready()
        children = up.children()
        up.child("abfleet_router").suspend()
        up.interrupt()
        up.wait_for("stopping")
        up.interrupt()
        up.ended()
        assert psutil.wait_procs(children, timeout=0)[1] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_killed_supervisor_leaves_no_orphans(tmp_path: Path, registry: Path) -> None:
    """SIGKILL of `up` ends router and workers."""
    with Up(tmp_path, registry, experiments=small_file()) as up:
        up.ready()
        children = up.children()
        up.popen.kill()
        assert psutil.wait_procs(children, timeout=STOP_SECONDS)[1] == []


def test_a_killed_worker_comes_back(tmp_path: Path, registry: Path) -> None:
    """SIGKILL of a treatment's worker under traffic: no call fails, it is said, and the worker serves again."""
    with Up(tmp_path, registry) as up:
        up.ready()
        with traffic(up.address) as more:
            more(20)
            killed = up.child("abfleet_worker", "v1.3.0-beta")
            killed.kill()
            up.wait_for(r"worker-v1.3.0-beta was ended by SIGKILL; restarting it in 0.2 s")
            more(50)
            wait_until(lambda: pools(up)["v1.3.0-beta"] == 1, "the worker is in again")
            assert more(20) == []
        assert up.child("abfleet_worker", "v1.3.0-beta").pid != killed.pid


def bound(thief: socket.socket, port: int) -> bool:
    """Whether the port could be taken."""
    try:
        thief.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_a_port_that_is_lost_later_is_named(tmp_path: Path, registry: Path) -> None:
    """A worker whose port another process took while it was down: the flag is said, and it serves once it is free."""
    with Up(tmp_path, registry, experiments=small_file()) as up:
        up.ready()
        port = int(up.wait_for(r"worker-v1.2.3 ready 127.0.0.1:(\d+)").group(1))
        worker = up.child("abfleet_worker")
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            worker.kill()
            wait_until(
                lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker has ended"
            )
            # The kernel may need a moment to free the port of a process that was killed; a worker needs far longer to
            # start than this.
            wait_until(lambda: bound(thief, port), "the port is free")
            thief.listen()
            up.wait_for(rf"127.0.0.1:{port} for worker-v1.2.3 is taken; choose another address with --worker-port")
        wait_until(lambda: pools(up)["v1.2.3"] == 1, "the worker is in again")


def test_a_killed_router_comes_back_where_it_was(tmp_path: Path, registry: Path) -> None:
    """A router that dies is started again at the same addresses, though the ports were any free ones."""
    with Up(tmp_path, registry, experiments=small_file()) as up:
        address = up.ready().address
        up.child("abfleet_router").kill()
        up.wait_for(r"router was ended by SIGKILL; restarting it in 0.2 s")
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(START_SECONDS)
            request = recommender_pb2.RecommendRequest(item_ids=SEED)
            stub = recommender_pb2_grpc.RecommenderStub(channel)
            assert stub.Recommend(request, timeout=10, wait_for_ready=True).model_version == "v1.2.3"


def test_it_follows_the_file(tmp_path: Path) -> None:
    """A version that appears gets a worker and then traffic; one that goes is drained and its worker stopped."""
    models = tiny_models(tmp_path / "models")
    with Up(tmp_path, models) as up:
        up.ready()
        old = up.child("abfleet_worker", "v1.4.0-rc1")
        document = json.loads(experiments_file())
        document["models"] = {
            "v1.2.3": document["models"]["v1.2.3"],
            "v1.3.0-beta": document["models"]["v1.3.0-beta"],
            "v2.0.0": {"target": "dns:///v2.invalid:1"},
        }
        document["experiments"][0]["groups"][2]["model"] = "v2.0.0"
        with traffic(up.address) as more:
            up.edit(json.dumps(document))
            up.wait_for(r"v2.0.0: model 'v2.0.0' is not in the registry; it has v1.2.3, ")
            assert set(pools(up)) >= {"v1.4.0-rc1"}
            add_version(models, "v2.0.0")
            up.wait_for(r"starting worker-v2.0.0")
            up.wait_for(r"configuration \w+ is now in force")
            assert psutil.wait_procs([old], timeout=START_SECONDS)[1] == []
            assert pools(up) == {"v1.2.3": 1, "v1.3.0-beta": 1, "v2.0.0": 1}
            assert more(50) == []
        up.wait_for(r"v1.4.0-rc1 is no longer in the configuration")
        assert any(call(up.address, f"user-{n}").model_version == "v2.0.0" for n in range(200))


def test_a_broken_edit_is_said_and_serves_on(tmp_path: Path, registry: Path) -> None:
    """Every mistake of an edit is said once; the old configuration stays; the file put right is said as well."""
    with Up(tmp_path, registry, experiments=small_file()) as up:
        up.ready()
        up.edit(small_file(default="v9"))
        up.wait_for(r"the new configuration is not in force: .*default: `v9`")
        assert call(up.address).model_version == "v1.2.3"
        up.edit(small_file())
        up.wait_for(r"the file again matches the configuration in force")
        assert sum("is not in force" in line for line in up.lines) == 1


def test_replicas_share_a_version(tmp_path: Path, registry: Path) -> None:
    """`--replicas VERSION=N` gives the router N workers of it."""
    with Up(tmp_path, registry, "--replicas", "v1.3.0-beta=2") as up:
        up.ready()
        assert pools(up) == {"v1.2.3": 1, "v1.3.0-beta": 2, "v1.4.0-rc1": 1}
        up.wait_for("worker-v1.3.0-beta-2 ready")


def test_an_address_in_the_file_is_respected(tmp_path: Path, registry: Path) -> None:
    """A loopback address where somebody serves already is used as it is; `up` starts no worker for that version."""
    flags = ["--registry", str(registry), "--version", "v1.2.3", "--listen", "127.0.0.1:0", "--metrics-port", "off"]
    foreign = subprocess.Popen(
        [sys.executable, "-m", "abfleet_worker", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=without_flags(),
    )
    try:
        assert foreign.stdout is not None
        address = foreign.stdout.readline().split()[1]
        document = json.loads(experiments_file())
        document["models"]["v1.2.3"]["target"] = address
        with Up(tmp_path, registry, experiments=json.dumps(document)) as up:
            up.ready()
            assert call(up.address).model_version == "v1.2.3"
            assert not any("v1.2.3" in child.cmdline() for child in up.children())
    finally:
        foreign.terminate()
        foreign.wait()


def test_a_server_of_another_kind_is_used_as_it_is(tmp_path: Path, registry: Path) -> None:
    """A version with `protocol: oip` has no worker here; its server is asked where the file says, and as it says."""
    server = Process("oip", "tests.support.oip_server", ["127.0.0.1:0"], tmp_path)
    try:
        target = f"localhost:{server.ready()[1].rpartition(':')[2]}"
        document = json.loads(small_file())
        document["models"]["v3"] = {"target": target, "protocol": "oip", "model": "ranker", "version": 3}
        groups = [{"name": "control", "model": "v1.2.3", "weight": 50}, {"name": "other", "model": "v3", "weight": 50}]
        document["experiments"] = [{"name": "e", "overrides": {"on-v3": "other"}, "groups": groups}]
        with Up(tmp_path, registry, experiments=json.dumps(document)) as up:
            up.ready()
            wait_until(lambda: pools(up) == {"v1.2.3": 1, "v3": 1}, "the server is in")
            answer = call(up.address, "on-v3")
            assert (answer.model_version, answer.item_ids[0]) == ("v3", sum(SEED) + 1)
            assert not any("v3" in process.cmdline() for process in up.children())
        wrong = run_abfleet("up", "--experiments", "experiments.yaml", "--replicas", "v3=2", folder=tmp_path)
        assert wrong.returncode == 2
        assert "--replicas: 'v3' has `protocol: oip`" in wrong.stderr
    finally:
        server.kill()


@contextmanager
def a_taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--listen", "127.0.0.1:{}"),
        ("--admin-listen", "127.0.0.1:{}"),
        ("--metrics-port", "{}"),
        ("--worker-port", "{}"),
    ],
)
def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path, registry: Path, flag: str, value: str) -> None:
    """The address and the flag that changes it are said, nothing is started, and the exit code is 1."""
    with a_taken_port() as port:
        ports = [*ANY_PORTS]
        ports[ports.index(flag) + 1] = value.format(port)
        with Up(tmp_path, registry, ports=ports) as up:
            line = up.wait_for(rf"127.0.0.1:{port} for .* is taken; choose another address with (\S+)", START_SECONDS)
            assert line.group(1) == flag
            assert up.ended() == 1
            assert "starting" not in up.text
    assert not (tmp_path / ".abfleet").exists()


def test_two_uses_of_a_port_are_named(tmp_path: Path, registry: Path) -> None:
    """Ports that our own flags give twice are refused with both flags."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ports = [*ANY_PORTS]
    ports[1], ports[ports.index("--worker-port") + 1] = f"127.0.0.1:{port}", str(port)
    with Up(tmp_path, registry, ports=ports) as up:
        up.wait_for(r"is needed for both the router and worker-v1.2.3; change --listen or --worker-port", START_SECONDS)
        assert up.ended() == 1


def test_every_mistake_of_the_file_ends_it(tmp_path: Path, registry: Path) -> None:
    """A file with mistakes: all of them, exit code 2."""
    document = json.loads(experiments_file(control=69)) | {"colour": "red"}
    with Up(tmp_path, registry, experiments=json.dumps(document)) as up:
        assert up.ended() == 2
        assert "colour" in up.text
        assert "69" in up.text


def test_wrong_input_is_named(tmp_path: Path) -> None:
    """A model that the registry lacks, a version that the file lacks, a flag of the router that it does not know: 2."""
    registry = tiny_models(tmp_path / "models", ["v1.2.3"])
    with Up(tmp_path, registry) as up:
        up.wait_for(r"v1.3.0-beta: model 'v1.3.0-beta' is not in the registry; it has v1.2.3", START_SECONDS)
        up.wait_for(r"v1.4.0-rc1: ")
        assert up.ended() == 2
    with Up(tmp_path, registry, "--replicas", "v9=2") as up:
        up.wait_for(r"--replicas: 'v9' is not a version of the file; allowed: v1.2.3, ", START_SECONDS)
        assert up.ended() == 2
    with Up(tmp_path, tmp_path / "nowhere") as up:
        up.wait_for(r"v1.2.3, v1.3.0-beta, v1.4.0-rc1: registry '.* is not a folder", START_SECONDS)
        assert up.ended() == 2
    with Up(tmp_path, registry, "--", "--no-such-flag") as up:
        up.wait_for(r"no-such-flag", START_SECONDS)
        assert up.ended() == 2


def test_a_folder_that_cannot_be_used_is_named_before_anything_starts(tmp_path: Path, registry: Path) -> None:
    """A decision log that could go nowhere, by the flag or by the router's, and no place for the run's own files."""
    file = tmp_path / "file"
    file.touch()
    for flags, said in (
        (("--log-dir", str(file)), rf"--log-dir \(ABFLEET_LOG_DIR\): '{file}' is not a folder"),
        (("--log-dir", str(tmp_path / "no" / "logs")), "cannot be created: the folder"),
        (("--", "--log-dir", str(file)), rf"--log-dir \(ABFLEET_LOG_DIR\): '{file}' is not a folder"),
        (("--run-dir", str(file)), rf"--run-dir \(ABFLEET_RUN_DIR\): '{file}' is not a folder"),
    ):
        with Up(tmp_path, registry, *flags) as up:
            up.wait_for(said, START_SECONDS)
            assert up.ended() == 2
            assert "starting" not in up.text


def test_a_broken_default_model_ends_it_with_the_reason(tmp_path: Path) -> None:
    """When the default version cannot start, the end of its log is shown and kept, and the exit code is 1."""
    registry = tiny_models(tmp_path / "models")
    (registry / "v1.2.3" / "model.onnx").write_bytes(b"not a model")
    with Up(tmp_path, registry, experiments=small_file()) as up:
        up.wait_for(r"worker-v1.2.3 did not start", START_SECONDS)
        up.wait_for(r"sha256")
        up.wait_for(r"logs of the processes are in ")
        assert up.ended() == 1
    assert list((tmp_path / ".abfleet").glob("run-*/worker-v1.2.3.log"))


def test_a_router_that_cannot_start_ends_it_with_the_reason(tmp_path: Path, registry: Path) -> None:
    """What could not be seen beforehand is shown from the router's own log; the workers are gone afterwards."""
    with Up(tmp_path, registry, "--", "--user-id-hmac-key-file", "no-such-key", experiments=small_file()) as up:
        up.wait_for(r"router did not start", START_SECONDS)
        assert up.ended() == 1
        assert "no-such-key" in up.text
        assert up.children() == []


def test_a_broken_treatment_does_not_keep_it_from_ready(tmp_path: Path) -> None:
    """A treatment that cannot start is said; the default answers for it."""
    registry = tiny_models(tmp_path / "models")
    (registry / "v1.3.0-beta" / "model.onnx").write_bytes(b"not a model")
    with Up(tmp_path, registry) as up:
        up.ready()
        up.wait_for(r"no worker serves v1.3.0-beta yet; v1.2.3 answers as a fallback")
        assert call(up.address).model_version == "v1.2.3"


TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_terminal_gets_a_live_table_and_ctrl_c_works(tmp_path: Path, registry: Path) -> None:
    """On a terminal there is a table of groups and versions; Ctrl-C typed there ends all of it well."""
    experiments = tmp_path / "experiments.yaml"
    experiments.write_text(small_file())
    ours, theirs = os.openpty()
    flags = ["--experiments", experiments, "--registry", registry, *ANY_PORTS]
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, "-m", "abfleet", "up", *flags],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        start_new_session=True,
        env=without_flags() | {"TERM": "xterm", "COLUMNS": "160", "LINES": "50"},
    )
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the last one who had it open has gone
                return
            shown.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_until(lambda: b"calls/s" in shown and b"ejections" in shown, "the table", START_SECONDS)
        children = psutil.Process(process.pid).children(recursive=True)
        os.write(ours, b"\x03")
        assert process.wait(STOP_SECONDS) == 0
        reader.join(STOP_SECONDS)
        assert psutil.wait_procs(children, timeout=0)[1] == []
        assert b"stopped in" in shown
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        reader.join(STOP_SECONDS)
        os.close(ours)
