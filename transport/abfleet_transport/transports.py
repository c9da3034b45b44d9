"""The transports, and which of them serves. Loads none of them."""

from typing import Literal

from abfleet_process.errors import TransportUnavailable

Transport = Literal["auto", "native", "grpcio"]


def choose(transport: Transport, *, needs_grpcio: str | None = None) -> Literal["native", "grpcio"]:
    """`auto` is native where nothing is asked that it lacks.

    `needs_grpcio`: the flag that asks for such a thing. Raises TransportUnavailable when native is asked for
    all the same.
    """
    if needs_grpcio is not None:
        if transport == "native":
            raise TransportUnavailable(
                f"--transport native cannot be combined with {needs_grpcio}; leave one out, or use --transport grpcio"
            )
        return "grpcio"
    return "grpcio" if transport == "grpcio" else "native"
