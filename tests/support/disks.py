"""Disks that are small, read-only or frozen, for tests of what writes to them. Only root can mount one."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

IMAGE_BYTES = 32 * 1024 * 1024


def cannot_mount() -> str | None:
    """Why a small disk cannot be made here, or None."""
    if os.geteuid() != 0:
        return "mounting a tmpfs needs root"
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        tried = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", name], capture_output=True, text=True, check=False)
        if tried.returncode:
            return tried.stderr.strip() or "mount failed"
        _run("umount", name)
    return None


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Callable[[], None]]:
    """A disk of its own at a new folder; what it gives makes it large."""
    folder.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder)
    try:
        yield lambda: _run("mount", "-o", "remount,size=64m", folder)
    finally:
        _run("umount", "--lazy", folder)


def _run(*words: str | Path) -> None:
    subprocess.run(list(map(str, words)), check=True, capture_output=True)


def _make_image(image: Path, *options: str) -> None:
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    _run("mkfs.ext4", "-q", "-F", *options, image)


@contextlib.contextmanager
def freezing_disk(folder: Path) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """A disk on which every write waits between the first and the second function that it gives."""
    folder.mkdir()
    image = folder.with_suffix(".image")
    _make_image(image)
    _run("mount", "-o", "loop", image, folder)
    frozen = False

    def freeze() -> None:
        nonlocal frozen
        _run("fsfreeze", "--freeze", folder)
        frozen = True

    def thaw() -> None:
        nonlocal frozen
        if frozen:
            _run("fsfreeze", "--unfreeze", folder)
            frozen = False

    try:
        yield freeze, thaw
    finally:
        thaw()
        _run("umount", "--lazy", folder)


def cannot_freeze(folder: Path) -> str | None:
    """Why a disk cannot be made to stall here, or None."""
    if os.geteuid() != 0:
        return "mounting a disk needs root"
    try:
        with freezing_disk(folder) as (freeze, _):
            freeze()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no disk can be frozen here: {error}"
    return None


@contextlib.contextmanager
def failing_disk(folder: Path) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """A disk that the kernel turns read-only under open files, as after an error of the device, and a new one in its
    place: the first function and the second that it gives. What was on the first one stays at `old_of(folder)`.

    A plain `remount,ro` is refused while a file is open for writing; this is how it happens all the same.
    """
    folder.mkdir()
    old, image, spare = old_of(folder), folder.with_suffix(".image"), folder.with_suffix(".spare")
    old.mkdir()
    # Without a journal what was written stays readable from memory when the disk has failed.
    _make_image(image, "-O", "^has_journal")
    _make_image(spare)
    mounted: list[Path] = []
    try:
        _run("mount", "-o", "loop,errors=remount-ro", image, folder)
        mounted.append(folder)
        _run("mount", "--bind", folder, old)
        mounted.append(old)
        device = (
            subprocess.run(
                ["findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", str(old)],
                check=True,
                capture_output=True,
                text=True,
            )
            .stdout.strip()
            .partition("[")[0]
        )
        trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
        if not trigger.exists():
            raise OSError(f"{trigger} is not there")

        def replace() -> None:
            _run("mount", "-o", "loop", spare, folder)  # over the first, so that there is no moment without a disk
            mounted.append(folder)

        yield lambda: trigger.write_text("1") and None, replace
    finally:
        for place in mounted:
            _run("umount", "--lazy", place)


def old_of(folder: Path) -> Path:
    """Where a failed disk's files can still be read."""
    return folder.with_name(folder.name + "-old")


def cannot_fail(folder: Path) -> str | None:
    """Why a disk cannot be made to fail here, or None."""
    if os.geteuid() != 0:
        return "mounting a disk needs root"
    try:
        with failing_disk(folder) as (fail, replace):
            fail()
            replace()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no disk can be made to fail here: {error}"
    return None
