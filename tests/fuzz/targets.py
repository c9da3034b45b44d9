"""Everything that takes outside bytes, by name."""

from tests.fuzz import files, server, sockets, tensors, wire

TARGETS = (*wire.TARGETS, *tensors.TARGETS, *server.TARGETS, *sockets.TARGETS, *files.TARGETS)
