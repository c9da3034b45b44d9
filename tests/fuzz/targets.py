"""Everything that takes outside bytes, by name."""

from tests.fuzz import files, server, sockets, wire

TARGETS = (*wire.TARGETS, *server.TARGETS, *sockets.TARGETS, *files.TARGETS)
