"""What our server and our client make of each rule of RFC 9113 and RFC 7541, beside what nghttp2 does."""

import pytest

from tests.proofs.nghttp2 import KNOWN, compared
from tests.support import nghttp2


async def test_each_rule_as_nghttp2_has_it_or_as_the_rfc_does() -> None:
    """Where they differ it is said why, and nothing is said of what is alike."""
    library = nghttp2.loaded()
    if library is None:
        pytest.skip(f"{nghttp2.NAME} is not installed (Debian: libnghttp2-14)")
    found = await compared(library)
    assert len(found) > 200
    assert {(side, case.name) for side, case, ours, theirs in found if ours != theirs} == KNOWN.keys()
