"""What can go wrong when a server is opened, whichever transport it has."""


class TransportError(Exception):
    """A server could not be opened as asked."""


class AddressError(TransportError):
    """The address cannot be bound: it is taken, malformed or not of this machine."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address


class TransportUnavailable(TransportError):
    """The transport that was asked for cannot be had here."""
