"""Puts a changed text in the place of an experiments file, whole or not at all. Does IO."""

from pathlib import Path

from abfleet_process.atomic_file import FileChanged, replace_unchanged


class SaveError(OSError):
    """The file could not be replaced, and is as it was; the message says why."""


def save(path: Path, *, read: bytes, changed: bytes) -> None:
    """Replaces the file by a rename, so that a reader sees the old or the new text. A link stays a link.

    `read` is what the change was made from: if the file is another by now, nobody's work is overwritten.
    """
    try:
        replace_unchanged(path.resolve(), read=read, content=changed)
    except FileChanged as error:
        raise SaveError(f"{path} was changed by another process in the meantime; run the command again") from error
    except OSError as error:
        raise SaveError(f"{path} could not be written: {error.strerror or error}") from error
