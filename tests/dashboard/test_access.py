"""Who may look at the dashboard, and what every answer carries: plain functions over headers."""

import pytest
from abfleet_dashboard import access

NAMES = ("localhost", "abtests.example.com")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reading_is_allowed(method: str) -> None:
    """The two methods that change nothing."""
    assert access.refused_method(method) is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "X" * 100])
def test_everything_else_is_405(method: str) -> None:
    """No other method, whatever its name; the answer shows a part of it at most."""
    refused = access.refused_method(method)
    assert refused is not None
    assert refused.status == 405
    assert len(refused.reason) < 120


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "LOCALHOST:80",
        "127.0.0.1:8080",
        "[::1]:8080",
        "10.0.0.7",
        "abtests.example.com:443",
    ],
)
def test_known_hosts_are_answered(host: str) -> None:
    """localhost, names that are allowed, and addresses, which no foreign page can take as its own."""
    assert access.refused_host(host, NAMES) is None


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8080",
        "127.1",
        "abtests.example.com.evil.example",
        "xlocalhost",
        "[evil]",
        "::1",
        "[::1].evil.example",
        "[::1",
        "127.0.0.1:80:80",
        "localhost@evil.example",
        "<script>",
    ],
)
def test_foreign_hosts_are_421(host: str | None) -> None:
    """Names that somebody else may point at this machine, and what is no host at all."""
    refused = access.refused_host(host, NAMES)
    assert refused is not None
    assert refused.status == 421


def test_tokens() -> None:
    """The bearer header before the cookie; nothing without either, and nothing of a broken one."""
    assert access.token_of("Bearer abc", f"{access.COOKIE}=def") == "abc"
    assert access.token_of("bearer  abc ", None) == "abc"
    assert access.token_of(None, f"other=1; {access.COOKIE}=def") == "def"
    assert access.token_of("Basic abc", None) is None
    assert access.token_of("Bearer ", None) is None
    assert access.token_of(None, "\x00=;;;=") is None
    assert access.token_of(None, None) is None


def test_a_token_is_asked_for_only_where_there_are_some() -> None:
    """Without a tokens file whoever reaches the port may look; with one, exactly who has one of its tokens."""
    asked: list[str] = []

    def may_see(token: str) -> bool:
        asked.append(token)
        return token == "right"

    assert access.refused_token(None, None) is None
    assert access.refused_token("right", may_see) is None
    for token in (None, "", "wrong", "x" * (access.LONGEST_TOKEN + 1)):
        refused = access.refused_token(token, may_see)
        assert refused is not None
        assert refused.status == 401
        assert "wrong" not in refused.reason, "no answer repeats a token"
    assert asked == ["right", "wrong"], "a long one is not even hashed"


def test_the_cookie_is_out_of_reach() -> None:
    """Of scripts, and of other sites; Secure where the connection is."""
    header = access.cookie_header("t0ken", secure=True)
    assert {"HttpOnly", "SameSite=Strict", "Secure", "Path=/"} <= set(header.split("; "))
    assert "Secure" not in access.cookie_header("t0ken", secure=False)
    assert access.token_of(None, header) == "t0ken"


def test_tags_are_of_the_bytes() -> None:
    """The same bytes have the same tag; a list of tags, weak ones too, is understood."""
    tag = access.etag(b"page")
    assert tag == access.etag(b"page") != access.etag(b"Page")
    assert access.unchanged(f'"x", W/{tag}', tag)
    assert not access.unchanged(None, tag)
    assert not access.unchanged('"x"', tag)


def test_the_policy_lets_nothing_in() -> None:
    """Nothing inline, nothing evaluated, nothing from elsewhere."""
    policy = dict(access.HEADERS)[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "*" not in policy
    assert "frame-ancestors 'none'" in policy
