"""The HTTP/2 library nghttp2 as one end of a connection without a socket, where the machine has it (Debian:
libnghttp2-14). It takes bytes and gives those that it would send. For tests alone."""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_int32, c_size_t, c_uint8, c_uint32, c_void_p

NAME = "libnghttp2.so.14"
BAD_GREETING = -903
"""NGHTTP2_ERR_BAD_CLIENT_MAGIC: the only error that the library leaves to whoever uses it."""


class _Setting(ctypes.Structure):
    _fields_ = (("identifier", c_int32), ("value", c_uint32))


class _Field(ctypes.Structure):
    _fields_ = (
        ("name", c_char_p),
        ("value", c_char_p),
        ("name_length", c_size_t),
        ("value_length", c_size_t),
        ("flags", c_uint8),
    )


def loaded() -> ctypes.CDLL | None:
    """The library; None where it is not installed."""
    try:
        library = ctypes.CDLL(NAME)
    except OSError:
        return None
    library.nghttp2_session_mem_recv.argtypes = (c_void_p, c_char_p, c_size_t)
    library.nghttp2_session_mem_recv.restype = ctypes.c_ssize_t
    library.nghttp2_session_mem_send.argtypes = (c_void_p, POINTER(POINTER(c_uint8)))
    library.nghttp2_session_mem_send.restype = ctypes.c_ssize_t
    library.nghttp2_session_del.argtypes = (c_void_p,)
    library.nghttp2_session_del.restype = None
    library.nghttp2_session_callbacks_del.argtypes = (c_void_p,)
    library.nghttp2_session_callbacks_del.restype = None
    library.nghttp2_submit_settings.argtypes = (c_void_p, c_uint8, POINTER(_Setting), c_size_t)
    library.nghttp2_submit_request.argtypes = (c_void_p, c_void_p, POINTER(_Field), c_size_t, c_void_p, c_void_p)
    return library


class Session:
    """One end of a connection."""

    def __init__(self, library: ctypes.CDLL, *, server: bool, settings: Sequence[tuple[int, int]]) -> None:
        self._library = library
        self._session, callbacks = c_void_p(), c_void_p()
        assert library.nghttp2_session_callbacks_new(byref(callbacks)) == 0
        new = library.nghttp2_session_server_new if server else library.nghttp2_session_client_new
        assert new(byref(self._session), callbacks, None) == 0
        library.nghttp2_session_callbacks_del(callbacks)
        found = (_Setting * len(settings))(*(_Setting(*one) for one in settings))
        assert library.nghttp2_submit_settings(self._session, 0, found, len(settings)) == 0

    def request(self, fields: Sequence[tuple[bytes, bytes]]) -> int:
        """Asks, with headers alone; gives the stream."""
        found = (_Field * len(fields))(*(_Field(name, value, len(name), len(value), 0) for name, value in fields))
        return int(self._library.nghttp2_submit_request(self._session, None, found, len(fields), None, None))

    def take(self, data: bytes) -> bool:
        """Reads bytes; False where they are no greeting of HTTP/2, which it says nothing to."""
        taken: int = self._library.nghttp2_session_mem_recv(self._session, data, len(data))
        assert taken in (len(data), BAD_GREETING), taken
        return taken != BAD_GREETING

    def said(self) -> bytes:
        """What it sends now."""
        parts = []
        start = POINTER(c_uint8)()
        while (size := self._library.nghttp2_session_mem_send(self._session, byref(start))) > 0:
            parts.append(ctypes.string_at(start, size))
        assert size == 0, size
        return b"".join(parts)

    def close(self) -> None:
        """Frees it."""
        self._library.nghttp2_session_del(self._session)
