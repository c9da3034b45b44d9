"""What a client shows: tokens and certificates that fit together, from files that may be wrong or change."""

from pathlib import Path
from typing import Any

import pytest
from abfleet_client import ClientCredentials, CurrentToken, InvalidArgument


def test_a_changed_token_counts_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    """A file that is wrong, or gone for a moment, leaves the token before it in use."""
    path = tmp_path / "token"
    path.write_text("first\n")
    token = CurrentToken(ClientCredentials(token_file=path))
    assert token.get() == "first"
    path.write_text("second, but wrong")
    assert token.get() == "first"
    path.unlink()
    assert token.get() == "first"
    path.write_text("third\n")
    assert token.get() == "third"


def test_a_token_of_its_own_or_none() -> None:
    """Without a file the token is the one that was given; by default there is none."""
    assert CurrentToken(ClientCredentials(token="abc")).get() == "abc"
    assert CurrentToken(ClientCredentials()).get() == ""


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({"token": "two words"}, "token", "one word of ASCII"),
        ({"token": "a", "token_file": "b"}, "token", "cannot be combined with token_file"),
        ({"token_file": "missing"}, "token_file", "missing cannot be read: No such file"),
        ({"token_file": "/dev/null"}, "token_file", "does not hold a token"),
        ({"client_cert": "a"}, "server_ca", "missing"),
        ({"server_name": "a"}, "server_ca", "missing"),
        ({"tls": True, "client_key": "a"}, "client_cert", "missing"),
        ({"server_ca": "missing"}, "server_ca", "missing cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_said(given: dict[str, Any], field: str, said: str) -> None:
    """By the field and the file."""
    credentials = ClientCredentials(**given)
    with pytest.raises(InvalidArgument, match=said) as raised:
        (credentials.channel_credentials(), credentials.read_token())
    assert raised.value.field == field


def test_a_token_is_shown_nowhere(tmp_path: Path) -> None:
    """Neither a wrong file's content nor a token stands in an error or in a repr."""
    path = tmp_path / "token"
    path.write_text("abf_one abf_two")
    with pytest.raises(InvalidArgument) as raised:
        ClientCredentials(token_file=path).read_token()
    with pytest.raises(InvalidArgument) as worded:
        ClientCredentials(token="abf_one abf_two").read_token()
    assert "abf_" not in f"{raised.value}{worded.value}{ClientCredentials(token='abf_three')!r}"
