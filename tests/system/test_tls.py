"""TLS with certificates on every side, between real processes: who is trusted, who is not, and renewal under load."""

import asyncio
import contextlib
import json
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from abfleet_client import AsyncRecommender, CallFailed, ClientCredentials, OutcomesLost, Recommender
from abfleet_process.security.tls import ClientTls
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.recommender_pb2_grpc import RecommenderStub
from abfleet_router.fleet.connector import SocketConnector
from abfleet_transport.client.channel import open_channel

from tests.support.certificates import Authority, needs_openssl, openssl
from tests.support.fleet import Fleet, Process, experiments_file, wait_until
from tests.support.secured import OWN_POOL, Papers, abfleet, channel, here, s_client, start, words

pytestmark = [pytest.mark.system, needs_openssl]


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def fleet(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One router over one worker; each test leaves certificates that are right."""
    with start(tmp_path_factory.mktemp("fleet"), papers, experiments_file(100, 0, 0)) as running:
        yield running


def call(fleet: Fleet, access: ClientCredentials, **request: object) -> str:
    """The version that served, or the name of the status."""
    with channel(here(fleet.address), access) as opened:
        try:
            message = RecommendRequest(item_ids=[1, 2, 3], **request)
            return str(RecommenderStub(opened).Recommend(message, timeout=20).model_version)
        except grpc.RpcError as error:
            return str(error.code().name)


def counted(fleet: Fleet, name: str) -> float:
    """The value of a metric of the router."""
    text = urllib.request.urlopen(f"http://{fleet.metrics_address}/metrics", timeout=20).read().decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def test_openssl_trusts_router_and_worker(fleet: Fleet, papers: Papers) -> None:
    """Chain, host name and HTTP/2 by ALPN, seen by a client that is not ours."""
    shown = ("-cert", str(papers.folder / "shop.crt"), "-key", str(papers.folder / "shop.key"))
    for address in (here(fleet.address), here(fleet.admin_address), fleet.worker_addresses["v1.2.3", 0]):
        seen = s_client(address, papers, "-verify_hostname", "localhost", "-verify_return_error", *shown)
        assert "Verify return code: 0 (ok)" in seen
        assert "ALPN protocol: h2" in seen
    old = s_client(here(fleet.address), papers, "-tls1_1", *shown)
    assert "Verify return code: 0 (ok)" not in old or "Cipher is (NONE)" in old


def test_a_caller_with_a_certificate_is_served_and_named(fleet: Fleet, papers: Papers) -> None:
    """The log has its name, in the line of an answer and in that of a refusal."""
    assert call(fleet, papers.access(), user_id="user-1", request_id="named") == "v1.2.3"
    assert call(fleet, papers.access(), user_id="user-1", limit=1000) == "INVALID_ARGUMENT"

    def lines() -> list[dict[str, object]]:
        found = [line for line in fleet.log() if line["event"] in ("exposure", "rejected") and line["client"]]
        return found if {line["event"] for line in found} == {"exposure", "rejected"} else []

    assert {line["client"] for line in wait_until(lines, "both lines")} == {"spiffe://example/shop"}


def test_the_python_client_shows_certificate_and_token(fleet: Fleet, papers: Papers) -> None:
    """From threads and from an event loop, with outcomes too; without a certificate nobody is served."""
    shown = papers.access(token=papers.add_token("service", "feedback"))

    async def on_loop() -> bool:
        """Whether the router took the outcome: it reads a changed file of tokens within a second."""
        async with AsyncRecommender(here(fleet.address), timeout=60, credentials=shown) as client:
            answer = await client.recommend(user_id="user-1", items=[1, 2, 3])
            assert answer.model_version == "v1.2.3"
            await client.record("click", user_id="user-1", request_id=answer.request_id, item=answer.items[0])
            with contextlib.suppress(OutcomesLost):
                await client.flush(60)
            return client.outcomes.accepted == 1

    with Recommender(here(fleet.address), timeout=60, credentials=shown) as client:
        assert client.recommend(user_id="user-1").model_version == "v1.2.3"
    wait_until(lambda: asyncio.run(on_loop()), "an outcome by a token that was just added")
    with (
        Recommender(here(fleet.address), credentials=papers.access("")) as client,
        pytest.raises(CallFailed, match="UNAVAILABLE"),
    ):
        client.recommend(timeout=1)


def test_callers_who_are_refused(fleet: Fleet, papers: Papers, tmp_path: Path) -> None:
    """No certificate, one of another authority, one that is over, and no TLS at all."""
    stranger = Authority(tmp_path / "other")
    stranger.issue("stranger")
    papers.authority.issue("late", days=-1)
    foreign = ClientCredentials(
        server_ca=papers.authority.ca,
        client_cert=tmp_path / "other/stranger.crt",
        client_key=tmp_path / "other/stranger.key",
        server_name="localhost",
    )
    for access in (papers.access(""), foreign, papers.access("late")):
        assert call(fleet, access) == "UNAVAILABLE"
    with grpc.insecure_channel(here(fleet.address), options=[OWN_POOL]) as plain:
        with pytest.raises(grpc.RpcError) as raised:
            RecommenderStub(plain).Recommend(RecommendRequest(), timeout=20)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert call(fleet, papers.access()) == "v1.2.3"


def test_servers_that_callers_refuse(fleet: Fleet, papers: Papers, tmp_path: Path) -> None:
    """One of an authority that they do not trust, and one by another name."""
    other = Authority(tmp_path / "other")
    shown = papers.access()
    assert call(fleet, papers.access(server_name="elsewhere.example")) == "UNAVAILABLE"
    distrusts = ClientCredentials(
        server_ca=other.ca, client_cert=shown.client_cert, client_key=shown.client_key, server_name="localhost"
    )
    assert call(fleet, distrusts) == "UNAVAILABLE"


def test_the_commands(fleet: Fleet, papers: Papers) -> None:
    """`client`, `status` and `traffic` show certificate and token; without, they say what is missing."""
    address, admin = here(fleet.address), here(fleet.admin_address)
    shown = words(papers.access(token=papers.add_token("operator", "admin", "feedback")))
    done = abfleet("client", "--address", address, "--user-id", "user-1", "--items", "1,2,3", *shown)
    assert done.returncode == 0, done.stderr
    assert "served by v1.2.3" in done.stdout
    wait_until(
        lambda: abfleet("status", "--admin", admin, "--json", *shown).returncode == 0, "a token that was just added"
    )
    done = abfleet("status", "--admin", admin, *words(papers.access()))
    assert done.returncode == 1
    assert "the admin port needs a token on addresses other than loopback" in done.stderr
    flags = ("--users", "5", "--rate", "50", "--duration", "0.4", "--delay", "0.1", "--loss", "0", "--json")
    done = abfleet("traffic", "--address", address, *flags, *shown)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["answered"] == 20
    assert summary["errors"] == {}
    assert summary["outcomes"]["lost"] == 0


def test_renewal_under_load(fleet: Fleet, papers: Papers) -> None:
    """Certificates of router and worker change three times, and once to a broken file: no call fails, new connections
    see the new one, the broken one is counted and said."""
    failed, answered = asyncio.run(_renew_under_load(fleet, papers))
    assert failed == []
    assert answered > 100
    assert counted(fleet, 'abfleet_credential_reloads_total{credential="tls",result="taken"}') >= 3
    assert counted(fleet, 'abfleet_credential_reloads_total{credential="tls",result="refused"}') == 1
    assert fleet.router is not None
    assert "changed file was refused; the one before stays in use" in fleet.router.stderr_path.read_text()
    assert counted(fleet, 'abfleet_certificate_expiry_timestamp_seconds{credential="tls"}') > 1.7e9


async def _renew_under_load(fleet: Fleet, papers: Papers) -> tuple[list[str], int]:
    failed: list[str] = []
    answered, renewed = 0, asyncio.Event()

    async def keep_calling(*, fresh: bool) -> None:
        """On one connection, or on a new one for each few calls."""
        nonlocal answered
        while not renewed.is_set():
            async with open_channel(here(fleet.address), papers.access(), [OWN_POOL]) as opened:
                for _ in range(5 if fresh else 10_000):
                    if renewed.is_set():
                        return
                    try:
                        await RecommenderStub(opened).Recommend(RecommendRequest(user_id="user-1"), timeout=20)
                        answered += 1
                    except grpc.aio.AioRpcError as error:
                        failed.append(f"{error.code()}: {error.details()}")

    async def renew() -> None:
        for _ in range(3):
            serials = {}
            for name in ("router", "worker"):
                cert, _ = await asyncio.to_thread(papers.authority.issue, name)
                serials[name] = openssl("x509", "-in", cert, "-noout", "-serial", folder=papers.folder).strip()
            for name, address in (("router", here(fleet.address)), ("worker", fleet.worker_addresses["v1.2.3", 0])):
                await until_shown(address, serials[name])
        good = (papers.folder / "router.crt").read_text()
        (papers.folder / "router.crt").write_text("broken")
        refused = 'abfleet_credential_reloads_total{credential="tls",result="refused"}'
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(counted, fleet, refused):
                await asyncio.sleep(0.05)
        (papers.folder / "router.crt").write_text(good)

    async def until_shown(address: str, serial: str) -> None:
        shown = ("-cert", str(papers.folder / "shop.crt"), "-key", str(papers.folder / "shop.key"))
        async with asyncio.timeout(30):
            while True:
                seen = await asyncio.to_thread(s_client, address, papers, *shown)
                pem = seen[seen.index("-----BEGIN") : seen.index("-----END CERTIFICATE-----") + 25]
                path = papers.folder / "seen.pem"
                path.write_text(pem)
                if openssl("x509", "-in", path, "-noout", "-serial", folder=papers.folder).strip() == serial:
                    return

    callers = [asyncio.create_task(keep_calling(fresh=fresh)) for fresh in (False, True)]
    try:
        await renew()
    finally:
        renewed.set()
        await asyncio.gather(*callers)
    return failed, answered


def test_a_hop_comes_back_after_its_worker_was_renewed(fleet: Fleet, papers: Papers) -> None:
    """A worker that starts again with another certificate, and a router that shows another one, find each other."""
    papers.authority.issue("hop", "DNS:router.example")
    fleet.workers["v1.2.3", 0].kill()
    papers.authority.issue("worker")
    fleet.restart_worker("v1.2.3")
    wait_until(lambda: call(fleet, papers.access()) == "v1.2.3", "the worker in again")


def test_routers_that_do_not_trust_their_worker(fleet: Fleet, papers: Papers, tmp_path: Path) -> None:
    """Another authority, another host name, no certificate to show: no readiness, and the reason on stderr."""
    other = Authority(tmp_path / "other")
    no_certificate = ("--worker-ca", str(papers.authority.ca))
    cases = {
        "authority": ((*papers.hop_flags, "--worker-ca", str(other.ca)), "certificate verify failed"),
        "name": ((*papers.hop_flags, "--worker-server-name", "elsewhere.example"), "Hostname mismatch"),
        "certificate": (no_certificate, "it may require --worker-cert"),
    }
    common = [
        *("--experiments", str(fleet.experiments_path), "--fleet", str(fleet.fleet_path), "--listen", "127.0.0.1:0"),
        *("--admin-listen", "127.0.0.1:0", "--metrics-port", "off", "--log-dir", str(tmp_path / "logs")),
    ]
    routers = {
        name: Process(f"router-{name}", "abfleet_router", [*common, *flags], tmp_path)
        for name, (flags, _) in cases.items()
    }
    try:
        for name, router in routers.items():
            wait_until(lambda r=router, n=name: cases[n][1] in r.stderr_path.read_text(), cases[name][1])
            assert "no TLS with a worker" in router.stderr_path.read_text()
            assert router._lines.empty(), "it said ready"
    finally:
        for router in routers.values():
            assert router.stop() == 0


async def test_a_worker_whose_certificate_is_over_is_not_trusted(tmp_path: Path) -> None:
    """It may have ended since the worker started."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("worker", days=-1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    tls = ClientTls(authority.ca, None, ca_flag="--worker-ca")
    connector = SocketConnector(f"127.0.0.1:{port}", tls=tls)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        await connector.connect(lambda connection: None, lambda connection: None)
    server.close()


def test_what_cannot_be_is_said_at_once(papers: Papers, tmp_path: Path) -> None:
    """Native with what it lacks, a certificate that is over, one that is missing: an end before anything listens."""
    cert, key = papers.authority.issue("over", days=-1)
    right = ["--tls-cert", str(papers.folder / "router.crt"), "--tls-key", str(papers.folder / "router.key")]
    excluded = "--transport native cannot be combined with --tls-cert"
    cases = [
        ("abfleet_router", [*right, "--transport", "native"], excluded),
        ("abfleet_worker", [*right, "--transport", "native"], excluded),
        ("abfleet_router", ["--tls-cert", str(cert), "--tls-key", str(key)], f"--tls-cert: {cert} expired"),
        (
            "abfleet_worker",
            ["--tls-cert", "missing", "--tls-key", "missing"],
            "--tls-cert: missing cannot be read: No such file",
        ),
    ]
    started = [
        Process(f"{module}-{number}", module, flags, tmp_path) for number, (module, flags, _) in enumerate(cases)
    ]
    for process, (_, _, said) in zip(started, cases, strict=True):
        assert process.popen.wait(timeout=60) in (1, 2)
        assert said in process.stderr_path.read_text()
