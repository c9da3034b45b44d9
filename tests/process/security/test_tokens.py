"""Tokens: what is stored, what is found, and which files are refused."""

import hashlib
import os
from pathlib import Path

import pytest
from abfleet_process.security import tokens
from abfleet_process.security.tokens import TokenFile, bearer
from abfleet_process.watched_credentials import CredentialError

DIGEST = "0" * 64


def test_a_new_token_is_found_by_what_is_stored_of_it(tmp_path: Path) -> None:
    """The stored line has a hash and not the token; with it, the token is found, and no other."""
    secret, stored = tokens.new("shop", ["feedback", "admin"])
    path = tmp_path / "tokens"
    path.write_text(f"# who may record\n\n{stored.line()}  # since November\n")
    assert secret not in path.read_text()
    assert stored.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    file = TokenFile(path)
    assert file.find(secret) == stored
    assert file.find(secret[:-1]) is None
    assert file.find("") is None


def test_two_new_tokens_differ() -> None:
    """Each has 256 random bits."""
    assert tokens.new("a", ["feedback"])[0] != tokens.new("a", ["feedback"])[0]


def test_without_scopes_a_token_is_for_feedback_alone(tmp_path: Path) -> None:
    """The least that a token can be for."""
    assert tokens.parse(f"shop {DIGEST}")[0].scopes == {"feedback"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("shop", "line 1: 1 words"),
        (f"shop {DIGEST} feedback more", "4 words"),
        (f"sh/op {DIGEST}", "the name is not allowed"),
        ("shop abf_the-token-itself", "shop has no SHA-256"),
        ("abf_the-token-itself shop", "it has no SHA-256"),
        (f"shop {DIGEST} root", "scope 'root' is not known; allowed: feedback, admin, dashboard"),
        (f"shop {DIGEST}\nshop {DIGEST}", "line 2: the name shop is used twice"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """The message names file, line and what is allowed, and never repeats what may be a token."""
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(CredentialError) as raised:
        TokenFile(path)
    assert problem in str(raised.value)
    assert str(path) in str(raised.value)
    assert "the-token-itself" not in str(raised.value)


def test_every_mistake_is_told_at_once() -> None:
    """Two wrong lines, two problems."""
    with pytest.raises(ValueError, match=r"line 1: .*; line 3: "):
        tokens.parse(f"a\nb {DIGEST}\nc")


def test_a_token_that_is_added_counts_at_once(tmp_path: Path) -> None:
    """The file is followed; one that is taken out counts no more."""
    secret, stored = tokens.new("shop", ["feedback"])
    path = tmp_path / "tokens"
    path.write_text("")
    file = TokenFile(path)
    assert file.find(secret) is None
    path.write_text(stored.line())
    file.watched.check()
    assert file.find(secret) == stored
    path.write_text("")
    os.utime(path, ns=(1, 1))
    file.watched.check()
    assert file.find(secret) is None


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, "ü"])
def test_a_name_that_is_not_allowed(name: str) -> None:
    """What could not stand in a line makes no token."""
    with pytest.raises(ValueError, match=r"the name .* is not allowed"):
        tokens.new(name, ["feedback"])


@pytest.mark.parametrize(
    ("metadata", "token"),
    [
        ((("authorization", "Bearer abc"),), "abc"),
        ((("authorization", "bearer abc"),), "abc"),
        ((("authorization", "Basic abc"),), None),
        ((("authorization", "Bearer "),), None),
        ((("authorization", "Bearer " + "a" * 513),), None),
        ((("authorization", b"Bearer abc"),), None),
        ((), None),
    ],
)
def test_the_token_of_a_call(metadata: tuple[tuple[str, str | bytes], ...], token: str | None) -> None:
    """RFC 6750's header, with a bound on its length."""
    assert bearer(metadata) == token
