"""What a client shows: token and certificates, from files that may be wrong or change."""

import asyncio
from pathlib import Path

import pytest
from abfleet_client import ClientCredentials
from abfleet_process.security.tokens import bearer
from abfleet_process.watched_credentials import CredentialError
from abfleet_transport.call import Call
from abfleet_transport.client.channel import PLAIN, open_channel
from typer.testing import CliRunner

from abfleet.cli import app
from tests.transport.serving import METHODS, echo, serving


async def test_the_token_goes_with_each_call_and_may_change(tmp_path: Path) -> None:
    """Also over a plain connection, and beside metadata of the call's own; a new token counts from the next call on."""
    heard: list[tuple[str | None, str | bytes | None]] = []

    def listen(calls: list[Call]) -> None:
        heard.extend((bearer(call.metadata), dict(call.metadata).get("x-own")) for call in calls)
        echo(calls)

    path = tmp_path / "token"
    path.write_text("first\n")
    async with (
        serving("grpcio", listen) as served,
        open_channel(
            served.address, ClientCredentials(token_file=path), [("grpc.use_local_subchannel_pool", 1)]
        ) as channel,
    ):
        say = channel.unary_unary(METHODS[0])
        await say(b"x", metadata=(("x-own", "1"),), timeout=30)
        path.write_text("second, but wrong")
        await say(b"x", timeout=30)
        path.write_text("third\n")
        await say(b"x", timeout=30)
    assert heard == [("first", "1"), ("first", None), ("third", None)]


async def test_without_files_nothing_is_shown() -> None:
    """The plain access is a plain channel."""
    heard: list[str | None] = []

    def listen(calls: list[Call]) -> None:
        heard.extend(bearer(call.metadata) for call in calls)
        echo(calls)

    async with serving("grpcio", listen) as served, open_channel(served.address, PLAIN) as channel:
        await channel.unary_unary(METHODS[0])(b"x", timeout=30)
        await asyncio.sleep(0)
    assert heard == [None]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"client_cert": "a", "client_key": "b"}, "--server-ca: missing; a certificate to show"),
        ({"server_name": "a"}, "--server-ca: missing; a certificate to show"),
        ({"server_ca": "a", "client_cert": "b"}, "--client-key: missing; a certificate and its key"),
        ({"server_ca": "missing"}, "--server-ca: missing cannot be read: No such file"),
        ({"token_file": "missing"}, "--token-file: missing cannot be read: No such file"),
        (
            {"token_file": "/dev/null"},
            "--token-file: /dev/null does not hold a token; allowed: one token and nothing else",
        ),
    ],
)
def test_what_is_wrong_is_said(files: dict[str, str], said: str) -> None:
    """By the value, and by every command that takes it."""
    paths = {name: value if name == "server_name" else Path(value) for name, value in files.items()}
    with pytest.raises(CredentialError) as raised:
        open_channel("127.0.0.1:1", ClientCredentials(**paths))  # type: ignore[arg-type]
    assert said in str(raised.value)
    flags = [word for name, value in files.items() for word in (f"--{name.replace('_', '-')}", value)]
    for command in ("client", "status", "traffic"):
        done = CliRunner().invoke(app, [command, *flags], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
        assert done.exit_code == 2
        assert said in done.stderr
