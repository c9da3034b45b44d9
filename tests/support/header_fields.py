"""Header blocks of HTTP/2 as a library of others reads them."""

import hpack


def fields_of(block: bytes) -> dict[str, str]:
    """The fields of a header block, read by a library of others."""
    return {str(name): str(value) for name, value in hpack.Decoder().decode(block)}
