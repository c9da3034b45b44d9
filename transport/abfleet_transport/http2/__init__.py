"""HTTP/2 of our own: the server with its queue of calls, and what a client shares with it: frames and windows."""

__all__ = [
    "control_frames",
    "flow_control",
    "frame_reader",
    "frames",
    "server",
]
