"""Who may do what: tokens and scopes, on loopback and off it."""

from pathlib import Path

import pytest
from abfleet_process.security import tokens
from abfleet_process.security.tokens import TokenFile
from abfleet_router.security.access import Access, AccessDenied
from abfleet_router.security.guards import is_loopback
from abfleet_transport.call import Code

from tests.router.fakes import FakeCall


class Desk:
    """Two tokens: one for outcomes, one for operators."""

    def __init__(self, folder: Path) -> None:
        self.shop, shop = tokens.new("shop", ["feedback"])
        self.operator, operator = tokens.new("operator", ["admin"])
        path = folder / "tokens"
        path.write_text(f"{shop.line()}\n{operator.line()}\n")
        self.file = TokenFile(path)

    def access(self, *, needed: bool = True) -> Access:
        return Access(self.file, feedback_needs_token=needed, admin_needs_token=needed)


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("x-other", "1"), ("authorization", f"Bearer {token}"))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_token_with_the_scope_may(desk: Desk) -> None:
    """And its name is who the caller is, whatever its certificate says."""
    access = desk.access()
    assert access.feedback(metadata(desk.shop), "cert") == "shop"
    access.admin(metadata(desk.operator))


def test_a_token_without_the_scope_may_not(desk: Desk) -> None:
    """PERMISSION_DENIED, with whose it is, what it has and what is allowed."""
    with pytest.raises(AccessDenied, match="the token of shop has scope feedback; it needs scope admin") as raised:
        desk.access().admin(metadata(desk.shop))
    assert raised.value.code is Code.PERMISSION_DENIED
    with pytest.raises(AccessDenied, match="the token of operator has scope admin; it needs scope feedback"):
        desk.access().feedback(metadata(desk.operator), None)


@pytest.mark.parametrize("needed", [True, False])
def test_an_unknown_token_is_refused_even_where_none_is_needed(desk: Desk, needed: bool) -> None:
    """A caller that shows one believes that it counts; the message does not repeat it."""
    with pytest.raises(AccessDenied, match="the token is not known") as raised:
        desk.access(needed=needed).feedback(metadata("abf_secret"), None)
    assert raised.value.code is Code.UNAUTHENTICATED
    assert "abf_secret" not in str(raised.value)


def test_without_a_token(desk: Desk) -> None:
    """Where one is needed it is UNAUTHENTICATED and says what is; elsewhere the certificate says who it is."""
    for refused in (lambda: desk.access().feedback((), "cert"), lambda: desk.access().admin(())):
        with pytest.raises(AccessDenied, match=r"send metadata `authorization: Bearer TOKEN`") as raised:
            refused()
        assert raised.value.code is Code.UNAUTHENTICATED
    assert desk.access(needed=False).feedback((), "cert") == "cert"
    desk.access(needed=False).admin(())


def test_a_router_without_tokens_off_loopback_says_how_to_get_some() -> None:
    """Nobody can be let in."""
    access = Access(None, feedback_needs_token=True, admin_needs_token=True)
    with pytest.raises(AccessDenied, match=r"--open-feedback.*\(--tokens\)"):
        access.feedback(metadata("abf_any"), None)
    with pytest.raises(AccessDenied, match=r"\(--tokens\)"):
        access.admin(())


def test_who_makes_a_call(desk: Desk) -> None:
    """The token's name, else the certificate's; an unknown token says nothing, for Recommend asks for none."""
    call = FakeCall(b"")
    call.client = "cert"
    assert desk.access().client_of(call) == "cert"
    call.metadata = metadata("abf_unknown")
    assert desk.access().client_of(call) == "cert"
    call.metadata = metadata(desk.shop)
    assert desk.access().client_of(call) == "shop"


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/a", True),
        ("127.9.9.9:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("router:1", False),
    ],
)
def test_loopback(listen: str, expected: bool) -> None:
    """Only what no other machine can reach counts."""
    assert is_loopback(listen) is expected
