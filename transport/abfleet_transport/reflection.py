"""Reflection over all that a server serves, that which has a pool of descriptors of its own included."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from abfleet_transport.grpcio.grpcio_server import add_methods

REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
"""What clients ask first; its messages are those of v1alpha, the only one that grpcio has."""


def add_reflection(server: grpc.aio.Server, files: Iterable[Any]) -> None:
    """Serves reflection, by both of its names, for the services of these files, health and reflection itself."""
    pool = DescriptorPool()
    known: set[str] = set()
    names: list[str] = []
    for file in (*files, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        _add(pool, file, known)
        names += [service.full_name for service in file.services_by_name.values()]
    servicer = reflection.aio.ReflectionServicer(names, pool=pool)  # type: ignore[attr-defined]  # the stubs lack it
    reflect = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (reflection.SERVICE_NAME, REFLECTION_V1):
        add_methods(server, name, {"ServerReflectionInfo": reflect})


def _add(pool: DescriptorPool, file: FileDescriptor, known: set[str]) -> None:
    """A file after those that it imports, each once."""
    if file.name not in known:
        known.add(file.name)
        for needed in file.dependencies:
            _add(pool, needed, known)
        pool.AddSerializedFile(file.serialized_pb)
