"""Everything that takes outside bytes, by name."""

from tests.fuzz import codecs, files, server, sockets, tensors, wire

TARGETS = (*wire.TARGETS, *tensors.TARGETS, *server.TARGETS, *codecs.TARGETS, *sockets.TARGETS, *files.TARGETS)
