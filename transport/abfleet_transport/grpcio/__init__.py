"""The server on grpcio: the `Call` port on top of grpc.aio, and how such a server is opened and drained."""

__all__ = [
    "grpcio_adapter",
    "grpcio_server",
]
