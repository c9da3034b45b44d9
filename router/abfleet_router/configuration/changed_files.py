"""Whether the configuration files have changed, and whether the change is complete. Knows nothing of what they say."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from abfleet_process.file_state import file_state

CONTENT_EVERY = 20
"""Polls between two readings of the whole content, for file systems where a change may leave times and sizes alike."""


class ChangedFiles:
    """Changed only by `poll`."""

    def __init__(self, paths: Sequence[Path], settle_polls: int) -> None:
        """`settle_polls`: polls without a further change before a change counts, so that a save that is not atomic is
        not read half."""
        self._paths = tuple(paths)
        self._settle_polls = settle_polls
        self._settling = 0
        self._unread = False
        self._polls = 0
        self._numbers: object = None  # of the files when their content was last read: times, sizes, inodes
        self._contents: object = None  # digests of it

    def poll(self, *, force: bool) -> bool:
        """Whether the files are to be read now; always with `force`, as at the start."""
        self._polls += 1
        if self._changed(read_content=force or self._polls % CONTENT_EVERY == 0):
            self._settling = self._settle_polls
            self._unread = True
        elif self._settling:
            self._settling -= 1
        due = force or (self._unread and not self._settling)
        if due:
            self._unread, self._settling = False, 0
        return due

    def _changed(self, *, read_content: bool) -> bool:
        """Whether the content is another than it was; it is read when asked or when the numbers differ."""
        numbers = tuple(file_state(path) for path in self._paths)
        if not read_content and numbers == self._numbers:
            return False
        contents = tuple(_digest_of(path) for path in self._paths)
        changed = contents != self._contents
        self._numbers, self._contents = numbers, contents
        return changed


def _digest_of(path: Path) -> bytes | int | None:
    """Of the file's content; the error number where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        return error.errno
