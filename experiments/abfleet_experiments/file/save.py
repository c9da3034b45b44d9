"""Puts a changed text in the place of an experiments file, whole or not at all. Does IO."""

import os
import tempfile
from pathlib import Path


class SaveError(OSError):
    """The file could not be replaced, and is as it was; the message says why."""


def save(path: Path, *, read: bytes, changed: bytes) -> None:
    """Replaces the file by a rename, so that a reader sees the old or the new text. A link stays a link.

    `read` is what the change was made from: if the file is another by now, nobody's work is overwritten.
    """
    target = path.resolve()
    try:
        if target.read_bytes() != read:
            raise SaveError(f"{path} was changed by somebody else meanwhile; please run the command again")
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(changed)
                file.flush()
                os.fchmod(file.fileno(), target.stat().st_mode & 0o777)
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except SaveError:
        raise
    except OSError as error:
        raise SaveError(f"{path} could not be written: {error.strerror or error}") from error
