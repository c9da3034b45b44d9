"""Files of the decision log: their names, which of them are closed, and how a closed one is compressed.

A file is held under flock(2) by the process that writes it, so that others on the same volume leave it alone, and the
kernel lets go of it when that process dies. Where locks do not reach from machine to machine, age decides: another
machine's file counts as closed only after an hour without a change.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from abfleet_process.system_files import SystemFiles

PREFIX, SUFFIX, COMPRESSED_SUFFIX, PARTIAL_SUFFIX = "decisions-", ".jsonl", ".jsonl.zst", ".partial"
FOREIGN_IDLE_SECONDS = 3600.0
"""No router is silent for so long and then goes on in the same file, unless it rotates more rarely and has no calls."""
BLOCK_BYTES = 1024 * 1024
LEVEL = 1
"""Of zstd. Lines of this log come out no larger than at 3, its usual level, for half of the CPU."""
PROBE_BYTES = 4096
"""A block of most file systems: what a full disk has no room for."""


class CannotCompress(Exception):
    """The package that compresses is not installed."""


@dataclass(frozen=True, slots=True)
class WriterIdentity:
    """The writing process, as file names contain it: host and process id."""

    host: str
    process: int

    def name(self, started_seconds: float) -> str:
        """`decisions-HOST-START-PID.jsonl`; START is UTC with microseconds, so that names sort by age."""
        whole, micro = divmod(int(started_seconds * 1e6), 1_000_000)
        start = time.strftime("%Y%m%dT%H%M%S", time.gmtime(whole))
        return f"{PREFIX}{self.host}-{start}{micro:06d}Z-{self.process}{SUFFIX}"

    def owns_host_of(self, path: Path) -> bool:
        """Whether a file was written on this host."""
        return path.name.removeprefix(PREFIX).rsplit("-", 2)[0] == self.host


def create(
    folder: Path, identity: WriterIdentity, wall: Callable[[], float], system: SystemFiles = os
) -> tuple[int, Path]:
    """A new file, never one that is there: a torn last line stays alone. Makes the folder. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    started = wall()
    while True:
        path = folder / identity.name(started)
        try:
            file = system.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except FileExistsError:  # containers share host names and process ids
            started += 1e-6
            continue
        if compressed(path).exists():
            system.close(file)
            path.unlink()
            started += 1e-6
            continue
        with contextlib.suppress(OSError):  # a file system without locks: then age alone decides what is closed
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file, path


def in_place(file: int, path: Path) -> bool:
    """Whether an open file still has its name: somebody may have removed it, or its folder."""
    try:
        there, here = path.stat(), os.fstat(file)
    except OSError:
        return False
    return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)


def probe(folder: Path, system: SystemFiles = os) -> None:
    """Writes, syncs and removes a block. Raises OSError where the log could not be written either."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".probe-{os.getpid()}{PARTIAL_SUFFIX}"
    try:
        file = system.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            system.write(file, bytes(PROBE_BYTES))
            system.fsync(file)
        finally:
            system.close(file)
    finally:
        path.unlink(missing_ok=True)


def compressed(path: Path) -> Path:
    """The name of a file of lines once it is compressed."""
    return path.with_name(path.name + ".zst")


def without_twins(files: Collection[Path]) -> list[Path]:
    """The files in order of name; of twins the compressed one, because a router is just removing the other."""
    return sorted(file for file in files if compressed(file) not in files)


def plain_files(folder: Path) -> list[Path]:
    """Files that are not compressed, oldest first by name."""
    return sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))


@contextlib.contextmanager
def locked_if_closed(path: Path, identity: WriterIdentity, wall: Callable[[], float]) -> Iterator[int | None]:
    """A closed file, opened for reading and locked against other processes; None while it may still be written."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        idle = wall() - os.fstat(file).st_mtime
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
        else:
            closed = identity.owns_host_of(path) or idle > FOREIGN_IDLE_SECONDS
            yield file if closed and in_place(file, path) else None
    finally:
        os.close(file)


def compress(file: int, path: Path, go_on: Callable[[], bool]) -> Path | None:
    """Compresses a closed file to `.zst` and removes it; None if `go_on` says stop, or if it grew meanwhile.

    The compressed file takes its name at once when it is whole and on disk. A reader who sees both names takes that
    one (`without_twins`). Raises OSError and CannotCompress.
    """
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise CannotCompress("--log-compress zst needs the package zstandard") from error
    target = compressed(path)
    partial = target.with_name("." + target.name + PARTIAL_SUFFIX)
    size = 0
    try:
        with partial.open("wb") as out:
            with zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(out, closefd=False) as writer:
                while block := os.read(file, BLOCK_BYTES):
                    size += len(block)
                    writer.write(block)
                    if not go_on():
                        return None
            out.flush()
            os.fsync(out.fileno())
        stat = os.fstat(file)
        if stat.st_size != size:
            return None
        os.chmod(partial, stat.st_mode & 0o777)
        os.utime(partial, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # retention counts from the last line
        partial.rename(target)
        path.unlink()
    finally:
        partial.unlink(missing_ok=True)
    return target


def expired(folder: Path, retention_seconds: float, now: float) -> list[Path]:
    """Files whose last line is older than the retention, oldest first."""
    found = []
    for suffix in (SUFFIX, COMPRESSED_SUFFIX):
        for path in folder.glob(f"{PREFIX}*{suffix}"):
            with contextlib.suppress(FileNotFoundError):
                if now - path.stat().st_mtime > retention_seconds:
                    found.append(path)
    return sorted(found)
