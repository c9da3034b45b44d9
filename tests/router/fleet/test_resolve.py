"""Targets and addresses: what needs DNS, what does not, and what a failure looks like."""

import asyncio
import socket

import pytest
from abfleet_router.fleet.resolve import address, needs_resolving, resolve, split


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("dns:///worker-v1-2-3:50061", ("dns", "worker-v1-2-3", 50061)),
        ("localhost:1", ("dns", "localhost", 1)),
        ("127.0.0.1:65535", ("address", "127.0.0.1", 65535)),
        ("dns:///10.0.0.1:5", ("address", "10.0.0.1", 5)),
        ("[::1]:50061", ("address", "::1", 50061)),
        ("dns:///[fe80::1]:7", ("address", "fe80::1", 7)),
        ("unix:/run/worker.sock", ("unix", "unix:/run/worker.sock", 0)),
        ("unix:///run/a:1.sock", ("unix", "unix:///run/a:1.sock", 0)),
    ],
)
def test_split(target: str, parts: tuple[str, str, int]) -> None:
    """Every form of a target; only a name can change its answer."""
    assert split(target) == parts
    assert needs_resolving(target) == (parts[0] == "dns")


@pytest.mark.parametrize(
    ("target", "addresses"),
    [
        ("127.0.0.1:5", ["127.0.0.1:5"]),
        ("[::1]:5", ["[::1]:5"]),
        ("unix:/run/worker.sock", ["unix:/run/worker.sock"]),
    ],
)
async def test_what_is_an_address_is_its_own_answer(target: str, addresses: list[str]) -> None:
    """An address resolves to itself, without DNS."""
    assert await resolve(target) == addresses


async def test_a_name_is_many_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """All addresses of a name, each once, in an order that does not depend on the answer's."""

    async def getaddrinfo(host: str, port: int, *, type: int) -> list[object]:
        assert (host, port, type) == ("workers", 50061, socket.SOCK_STREAM)
        answers = [("10.0.0.2", 50061), ("10.0.0.1", 50061), ("10.0.0.2", 50061), ("fd00::1", 50061, 0, 0)]
        return [(None, None, None, "", one) for one in answers]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await resolve("dns:///workers:50061") == ["10.0.0.1:50061", "10.0.0.2:50061", "[fd00::1]:50061"]


async def test_localhost_resolves() -> None:
    """With the resolver of this machine."""
    assert set(await resolve("dns:///localhost:9")) & {"127.0.0.1:9", "[::1]:9"}


@pytest.mark.parametrize("name", ["a..b", "a" * 64 + ".example"])
async def test_a_name_that_does_not_resolve_is_an_os_error(name: str) -> None:
    """One that DNS cannot even carry fails like one that it does not know: whoever follows it goes on."""
    with pytest.raises(OSError, match=r"."):
        await resolve(f"dns:///{name}:1")


def test_address_is_what_grpc_reads() -> None:
    """An IPv6 address stands in brackets, an IPv4 address without."""
    assert address("10.0.0.1", 5) == "10.0.0.1:5"
    assert address("::1", 5) == "[::1]:5"
