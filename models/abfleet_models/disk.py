"""Puts files, folders and links on disk whole or not at all, also through a kill or a power cut (IO). Knows no model.

Everything is prepared under a name that begins with a dot, forced to the disk, and renamed to where readers look.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from abfleet_models.errors import BusyError, shown

Json = Mapping[str, Any]

FRESH, OLD = ".tmp", ".old"
"""How names end of what is being prepared, and of what is about to be removed."""
_HIDDEN = re.compile(r"\.(.+)\.\d+\.(?:tmp|old)")
"""The place and the number of the process that prepares for it: `.v1.2.3.4711.old`."""


@contextlib.contextmanager
def only_writer(root: Path) -> Iterator[None]:
    """Locks the registry for one writer; raises BusyError at once while another holds it.

    The lock is on the folder itself, so that it leaves no file behind, and the kernel lifts it when its holder dies.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"registry {shown(str(root))} is being changed by another process; try again") from error
        yield
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Removes what a killed writer had prepared, and restores a folder that it had only moved aside."""
    for path in sorted(folder.glob(".*")):
        hidden = _HIDDEN.fullmatch(path.name)
        if hidden is None:
            continue
        place = folder / hidden[1]
        if path.suffix == OLD and path.is_dir() and not os.path.lexists(place):
            path.rename(place)
        else:
            remove(path)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path, suffix: str = FRESH) -> Path:
    """The hidden name beside `path` that this process may use; whatever had it is removed."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}{suffix}")
    remove(hidden)
    return hidden


def put_file(path: Path, content: bytes) -> None:
    """Lets `path` have this content: readers see the old file or the new one."""
    fresh = set_aside(path)
    _write(fresh, content)
    fresh.replace(path)
    sync_folder(path.parent)


def put_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Lets `folder` have these files. One that is there is missing for the instant between two renames."""
    fresh = prepare_folder(set_aside(folder), files)
    if os.path.lexists(folder):
        old = set_aside(folder, OLD)
        folder.rename(old)
        fresh.rename(folder)
        remove(old)
    else:
        fresh.rename(folder)
    sync_folder(folder.parent)


def prepare_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A new folder with these files, forced to the disk."""
    folder.mkdir()
    for name, content in files.items():
        _write(folder / name, content)
    sync_folder(folder)
    return folder


def put_link(link: Path, target: str) -> None:
    """Lets a link lead to `target`: readers see where it led before or where it leads now."""
    fresh = set_aside(link)
    fresh.symlink_to(target)
    fresh.replace(link)
    sync_folder(link.parent)


def move(source: Path, target: Path) -> None:
    """Renames a file or folder within the registry, and waits for the disk on both sides."""
    source.rename(target)
    for parent in {source.parent, target.parent}:
        sync_folder(parent)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk: without it a power cut may undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    """Writes and waits for the disk, so that a rename never uncovers an empty file after a power cut."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def to_json(value: Json) -> str:
    """JSON for people and for diffs: one key a line, lists of plain values on one line."""
    return _lines(value, "") + "\n"


def _lines(value: object, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, Mapping) and value:
        rows = (f"{deeper}{json.dumps(key)}: {_lines(item, deeper)}" for key, item in value.items())
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        return "[\n" + ",\n".join(f"{deeper}{_lines(item, deeper)}" for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
