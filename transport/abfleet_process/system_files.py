"""What files that are written need of the system, as a type: the module `os`, or what stands for it."""

from pathlib import Path
from typing import Protocol


class SystemFiles(Protocol):
    """Of `os`, as much as the decision log uses. All raise OSError."""

    def open(self, path: Path, flags: int, mode: int = ..., /) -> int: ...

    def write(self, file: int, data: bytes | memoryview, /) -> int: ...

    def ftruncate(self, file: int, length: int, /) -> None: ...

    def fsync(self, file: int, /) -> None: ...

    def close(self, file: int, /) -> None: ...
