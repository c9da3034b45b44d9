"""Writes a file whole or not at all, for readers that may open it at any moment."""

import ctypes
import errno
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

_EXCHANGE: Final = 2
"""RENAME_EXCHANGE of renameat2(2)."""
_HERE: Final = -100
"""AT_FDCWD."""


class WriteError(Exception):
    """Why a file cannot be written, in plain words."""


class FileChanged(Exception):
    """Somebody else has changed the file meanwhile; it is as they left it."""


def check_writable(path: Path) -> None:
    """Raises WriteError for a place where no file can be, before the work of making it is done."""
    if path.exists() and not path.is_file():
        raise WriteError(f"`{str(path)[:64]}` exists and is not a file")
    if not path.parent.is_dir():
        raise WriteError(f"`{str(path)[:64]}`: the folder `{str(path.parent)[:64]}` does not exist")
    if not os.access(path.parent, os.W_OK):
        raise WriteError(f"`{str(path)[:64]}`: the folder `{str(path.parent)[:64]}` cannot be written to")


def write_whole(path: Path, text: str) -> None:
    """As `replace_file`, with a WriteError for whatever is in the way."""
    check_writable(path)
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise WriteError(f"`{str(path)[:64]}`: {error.strerror or error}") from error


def replace_file(path: Path, content: bytes) -> None:
    """Puts the content there in one step, and on the disk: who opens the path sees the file before or the file after.

    A file that was there keeps its mode. Raises OSError.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("xb") as file:
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def replace_unchanged(path: Path, *, read: bytes, content: bytes, fresh: Path | None = None) -> None:
    """As `replace_file`, unless the file is no longer what was read: then it stays. Raises FileChanged, and OSError.

    What is read just before a rename may change in between. Where the system can exchange two names, both files are
    there afterwards: what came out is looked at, and put back if it is not what was read.

    fresh: Where the new content is until then, and after a kill what came out.
    """
    fresh = fresh or path.with_name(f".{path.name}.{os.getpid()}")
    partial = fresh.with_name(f"{fresh.name}.partial")
    try:
        with partial.open("wb") as file:
            os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.read_bytes() != read:
            raise FileChanged(str(path))
        partial.replace(fresh)
    finally:
        partial.unlink(missing_ok=True)
    if not exchange(fresh, path):
        fresh.replace(path)
    elif fresh.read_bytes() != read:
        _put_back(fresh, path, content)
        raise FileChanged(str(path))
    else:
        fresh.unlink()
    _sync_folder(path)


def exchange(one: Path, other: Path) -> bool:
    """Exchanges the names of two files in one step; False where the system cannot. Raises OSError."""
    call = _renameat2()
    if call is None:
        return False
    if call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _put_back(fresh: Path, path: Path, content: bytes) -> None:
    """What came out takes its name again, unless somebody has written a third text in between, which is newer."""
    exchange(fresh, path)
    if fresh.read_bytes() != content:
        exchange(fresh, path)
    fresh.unlink()
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@cache
def _renameat2() -> Any:
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return call
