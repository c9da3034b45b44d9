"""Writes a file whole or not at all, for readers that may open it at any moment."""

import os
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
    """Puts the text there in one step: who opens the path sees the file before or the file after, never a part."""
    check_writable(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise WriteError(f"`{str(path)[:64]}`: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)
