"""From a salt and a user id to one of 10,000 buckets."""

import re
from typing import Final

import mmh3

BUCKETS: Final = 10_000
"""How finely users can be divided: a bucket is 0.01 % of them, so a share in basis points is a number of buckets."""

USER_ID_MAX_BYTES: Final = 256
_CONTROL_CHARACTER: Final = re.compile("[\x00-\x1f\x7f-\x9f]")


def bucket(salt: str, user_id: str) -> int:
    """The bucket, 0 to 9,999, of a user under a salt.

    `(murmur3_x86_32(utf8(salt + ":" + user_id), seed 0, unsigned) * 10000) >> 32`: multiply and shift maps the 2**32
    hashes onto the buckets in integers alone, and no bucket gets over 1 part in 400,000 more of them than another.
    """
    return mmh3.hash(f"{salt}:{user_id}", 0, False) * BUCKETS >> 32


def layer_salt(layer: str) -> str:
    """The salt that lays users over the slices of a layer; never an experiment's own, or the two would correlate."""
    return f"layer/{layer}"


def shadow_salt(version: str) -> str:
    """The salt under which the bucket of a request id says whether a call is repeated in the shadow to a version."""
    return f"shadow/{version}"


def interleave_salt(salt: str) -> str:
    """The salt of the coins by which an experiment's two lists are drafted; `salt` is the experiment's own."""
    return f"interleave/{salt}"


def user_id_problem(user_id: str) -> str | None:
    """What is wrong with a user id that is not empty, or None: 1 to 256 bytes of UTF-8 without control characters."""
    try:
        length = len(user_id.encode())
    except UnicodeEncodeError:
        return "must be valid UTF-8"
    if not 1 <= length <= USER_ID_MAX_BYTES:
        return f"must be 1 to {USER_ID_MAX_BYTES} bytes of UTF-8, not {length}"
    if _CONTROL_CHARACTER.search(user_id):
        return "must hold no control characters"
    return None
