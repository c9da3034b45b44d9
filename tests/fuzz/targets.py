"""Everything that takes outside bytes, by name."""

from tests.fuzz import files, sockets, wire

TARGETS = (*wire.TARGETS, *sockets.TARGETS, *files.TARGETS)
