"""What shows that files have changed without reading them."""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

FileState = tuple[int, ...]
FileStates = tuple[tuple[str, FileState], ...]


def file_state(path: Path) -> FileState:
    """Another value once the file is written, replaced or gone. Links are resolved: Kubernetes swaps a file by one."""
    try:
        stat = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev


def file_states(paths: Iterable[Path], *, without: Collection[str] = ()) -> FileStates:
    """The states of these files, and of all files in these folders, however deep, by name; without those so named."""
    found = (file for path in paths for file in _files(path) if file.name not in without)
    return tuple(sorted((str(file), file_state(file)) for file in found))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names)
