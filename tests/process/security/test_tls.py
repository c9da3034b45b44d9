"""Certificates: which are taken, which are refused and why, and what a client's says about it."""

import os
import time
from pathlib import Path

import grpc
import pytest
from abfleet_process.errors import TransportUnavailable
from abfleet_process.security.tls import CertificateFiles, ServerTls, identity
from abfleet_process.security.x509 import validity
from abfleet_process.watched_credentials import CredentialError
from abfleet_transport.call import Call
from abfleet_transport.server import choose

from tests.support.certificates import Authority, needs_openssl, openssl
from tests.transport.serving import METHODS, echo, serving

pytestmark = needs_openssl
OWN_POOL = ("grpc.use_local_subchannel_pool", 1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def files_of(authority: Authority, name: str = "server", **how: int) -> CertificateFiles:
    cert, key = authority.issue(name, **how)
    return CertificateFiles(cert=cert, key=key)


def test_validity_is_what_openssl_says(authority: Authority) -> None:
    """Begin and end, to the second."""
    cert, _ = authority.issue("dates")
    begins, ends = validity(cert.read_bytes())
    said = openssl("x509", "-in", cert, "-noout", "-enddate", folder=authority.folder).strip()
    assert time.strftime("notAfter=%b %e %H:%M:%S %Y GMT", time.gmtime(ends)) == said
    assert ends - begins == 3 * 86_400


@pytest.mark.parametrize(
    "content", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_what_has_no_dates(content: bytes) -> None:
    """Is a ValueError, and nothing else."""
    with pytest.raises(ValueError, match=r"certificate|dates"):
        validity(content)


def test_a_certificate_that_is_over_is_refused(authority: Authority) -> None:
    """At start; its end is named."""
    with pytest.raises(CredentialError, match=r"--tls-cert: .* expired on \d{4}-"):
        ServerTls(files_of(authority, "old", days=-1), None)


def test_files_that_are_wrong(authority: Authority, tmp_path: Path) -> None:
    """Each error names the flag and the file."""
    good, other = files_of(authority, "one"), files_of(authority, "two")
    empty = tmp_path / "empty"
    empty.write_text("")
    openssl("ec", "-aes128", "-passout", "pass:x", "-in", good.key, "-out", tmp_path / "locked", folder=tmp_path)
    for cert, key, ca, said in (
        (tmp_path / "missing", good.key, None, "--tls-cert: .*missing cannot be read: No such file"),
        (good.cert, tmp_path / "missing", None, "--tls-key: .*missing cannot be read: No such file"),
        (good.cert, other.key, None, "--tls-cert and --tls-key: .* are not a certificate and its key"),
        (empty, good.key, None, "--tls-cert and --tls-key: .*empty"),
        (good.cert, tmp_path / "locked", None, "--tls-key: .*locked is encrypted"),
        (good.cert, good.key, empty, "--tls-client-ca: .*empty has no certificates"),
    ):
        with pytest.raises(CredentialError, match=said):
            ServerTls(CertificateFiles(cert=cert, key=key), ca)


@pytest.mark.parametrize(
    ("alternative", "who"),
    [
        ("URI:spiffe://example/shop,DNS:shop.example", "spiffe://example/shop"),
        ("DNS:shop.example", "shop.example"),
        ("", "the shop"),
    ],
)
async def test_who_a_client_is(authority: Authority, alternative: str, who: str) -> None:
    """SAN URI, else SAN DNS, else the common name; each call has it."""
    heard: list[str | None] = []

    def listen(calls: list[Call]) -> None:
        heard.extend(call.client for call in calls)
        echo(calls)

    cert, key = authority.issue("client", alternative, common_name="the shop")
    tls = ServerTls(files_of(authority), authority.ca)
    async with serving("grpcio", listen, tls=tls) as served:
        credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes(), key.read_bytes(), cert.read_bytes())
        async with grpc.aio.secure_channel(served.address, credentials, options=(OWN_POOL,)) as channel:
            await channel.unary_unary(METHODS[0])(b"x", timeout=30)
    assert heard == [who]


async def test_without_a_client_authority_nobody_is_known(authority: Authority) -> None:
    """A certificate that nobody verified says nothing."""
    heard: list[str | None] = []

    def listen(calls: list[Call]) -> None:
        heard.extend(call.client for call in calls)
        echo(calls)

    async with serving("grpcio", listen, tls=ServerTls(files_of(authority), None)) as served:
        credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
        async with grpc.aio.secure_channel(served.address, credentials, options=(OWN_POOL,)) as channel:
            await channel.unary_unary(METHODS[0])(b"x", timeout=30)
    assert heard == [None]


async def test_a_new_certificate_is_shown_to_new_connections(authority: Authority) -> None:
    """Connections that are there stay; a broken file keeps the certificate before it."""
    tls = ServerTls(files_of(authority, "renewed"), None)
    async with serving("grpcio", tls=tls) as served:
        credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
        serials = []
        async with grpc.aio.secure_channel(served.address, credentials, options=(OWN_POOL,)) as stays:
            await stays.unary_unary(METHODS[0])(b"x", timeout=30)
            for change in ("nothing", "renew", "break"):
                if change == "renew":
                    authority.issue("renewed")
                elif change == "break":
                    (authority.folder / "renewed.crt").write_text("broken")
                async with grpc.aio.secure_channel(served.address, credentials, options=(OWN_POOL,)) as channel:
                    await channel.unary_unary(METHODS[0])(b"x", timeout=30)
                serials.append(tls.watched.value)
                await stays.unary_unary(METHODS[0])(b"x", timeout=30)
    assert serials[0] is not serials[1]
    assert serials[1] is serials[2]
    assert tls.watched.reloads == 1


def test_identity_of_odd_properties() -> None:
    """Cut to 256 characters; bytes that are no UTF-8 do no harm; nothing at all is nobody."""
    assert identity({}) is None
    assert identity({"x509_common_name": [b""]}) is None
    assert identity({"x509_common_name": [b"a" * 1000]}) == "a" * 256
    assert identity({"peer_dns": [b"\xff"]}) == "\ufffd"


def test_native_and_what_it_cannot_do() -> None:
    """Asked for together it is an error that names both flags; auto is grpcio then."""
    assert choose("auto", needs_grpcio="--tls-cert") == "grpcio"
    with pytest.raises(TransportUnavailable, match="--transport native cannot be combined with --tls-cert"):
        choose("native", needs_grpcio="--tls-cert")


def test_a_change_of_the_file_by_its_time_alone(authority: Authority) -> None:
    """The same content read again is no failure."""
    files = files_of(authority, "touched")
    tls = ServerTls(files, None)
    os.utime(files.cert, ns=(1, 1))
    tls.watched.check()
    assert (tls.watched.reloads, tls.watched.failures) == (1, 0)
