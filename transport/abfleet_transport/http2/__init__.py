"""The server on our own HTTP/2: frames, header blocks, flow control, connections, and the queue of calls."""

__all__ = [
    "frames",
    "server",
]
