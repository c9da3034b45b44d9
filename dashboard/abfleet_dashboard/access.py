"""Which requests are answered, and which headers every answer has. Plain functions over headers."""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final

METHODS: Final = ("GET", "HEAD")
COOKIE: Final = "abfleet_dashboard"
COOKIE_SECONDS: Final = 30 * 24 * 3600
_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::[0-9]{1,5})?")
LONGEST_TOKEN: Final = 512
"""Longer ones are nobody's: hashing them would be work for nothing."""

POLICY: Final = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing inline, nothing from elsewhere, in nobody's frame."""
HEADERS: Final = (
    (
        b"content-security-policy",
        POLICY,
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
"""On every answer."""


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """Why a request gets no page: `status` is HTTP's."""

    status: int
    title: str
    reason: str


def refused_method(method: str) -> RefusedRequest | None:
    """Refuses every method but GET and HEAD, because nothing can be changed here."""
    if method in METHODS:
        return None
    return RefusedRequest(405, "Only reading", f"The method {method[:16]!r} is not allowed; allowed are GET and HEAD.")


def refused_host(header: str | None, names: Collection[str]) -> RefusedRequest | None:
    """A page of another origin may point its own name at this address; then the browser says that name here.

    A browser that was given an address as such says the address, which nobody else can point anywhere. Names are
    allowed one by one.
    """
    host = _host_of(header or "")
    if host in names or _is_address(host):
        return None
    reason = f"The host name {(header or '')[:64]!r} is not one of this dashboard"
    return RefusedRequest(
        421, "Another host", f"{reason}; allowed are addresses, {', '.join(names)}, and --allowed-hosts."
    )


def _host_of(header: str) -> str:
    """The host without port and brackets; empty if the header is not a host."""
    found = _HOST.fullmatch(header.lower())
    return (found[1] or found[2]) if found else ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def token_of(authorization: str | None, cookie: str | None) -> str | None:
    """The token that a request carries: of the bearer header, else of the cookie."""
    kind, _, value = (authorization or "").partition(" ")
    if kind.lower() == "bearer" and value.strip():
        return value.strip()
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(cookie or "")
    except CookieError:
        return None
    morsel = jar.get(COOKIE)
    return morsel.value if morsel else None


def refused_token(token: str | None, may_see: Callable[[str], bool] | None) -> RefusedRequest | None:
    """`may_see`: None where there are no tokens, and whoever reaches the port may see it."""
    if may_see is None:
        return None
    if token and len(token) <= LONGEST_TOKEN and may_see(token):
        return None
    said = "This token gives no access to the dashboard." if token else "The dashboard needs a token."
    return RefusedRequest(401, "A token is needed", f"{said} `abfleet token new --scopes dashboard` makes one.")


def cookie_header(token: str, *, secure: bool) -> str:
    """A cookie that scripts cannot read, and that a browser sends to this site alone."""
    attributes = f"Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Strict"
    return f"{COOKIE}={token}; {attributes}{'; Secure' if secure else ''}"


def etag(body: bytes) -> str:
    """A strong entity tag, from a hash of the bytes."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def unchanged(if_none_match: str | None, tag: str) -> bool:
    """Whether the caller has these bytes already."""
    return tag in {one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")}
