"""Writes a file whole or not at all, for readers that may open it at any moment."""

import os
from contextlib import suppress
from pathlib import Path


class WriteError(Exception):
    """Why a file cannot be written, in plain words."""


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
