"""Files that are watched: a right change is taken, a wrong one is logged once and keeps what was."""

from pathlib import Path

import pytest
from abfleet_process.watched_credentials import CredentialError, WatchedCredential, families


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def watch(path: Path, clock: Clock) -> WatchedCredential[int]:
    """Follows a file that holds a number."""

    def read() -> int:
        try:
            return int(path.read_text())
        except (OSError, ValueError) as error:
            raise CredentialError(str(error)) from error

    return WatchedCredential("number", (path,), read, clock)


def test_what_is_wrong_at_first_is_an_error(tmp_path: Path) -> None:
    """There is nothing to fall back to."""
    with pytest.raises(CredentialError):
        watch(tmp_path / "missing", Clock())


def test_a_change_is_taken_at_the_next_look(tmp_path: Path) -> None:
    """And counted."""
    path, clock = tmp_path / "file", Clock()
    path.write_text("1")
    watched = watch(path, clock)
    assert watched.check() == 1
    path.write_text("22")
    assert watched.value == 1
    assert watched.check() == 22
    assert (watched.reloads, watched.failures) == (1, 0)


def test_a_wrong_change_keeps_what_was_and_is_counted_once(tmp_path: Path) -> None:
    """It counts as wrong only after it has stayed so, because several files change one after the other."""
    path, clock = tmp_path / "file", Clock()
    path.write_text("1")
    watched = watch(path, clock)
    path.write_text("no number")
    assert watched.check() == 1
    assert watched.failures == 0
    for clock.now in (0.6, 1.2, 1.8):
        assert watched.check() == 1
    assert watched.failures == 1
    path.write_text("333")
    assert watched.check() == 333


def test_a_change_that_is_put_right_soon_is_no_failure(tmp_path: Path) -> None:
    """A certificate is there before its key is: nobody needs to hear of it."""
    path, clock = tmp_path / "file", Clock()
    path.write_text("1")
    watched = watch(path, clock)
    path.write_text("half")
    watched.check()
    clock.now = 0.4
    path.write_text("4444")
    assert watched.check() == 4444
    clock.now = 10
    watched.check()
    assert (watched.reloads, watched.failures) == (1, 0)


def test_a_file_that_is_removed_keeps_what_was(tmp_path: Path) -> None:
    """As any wrong change."""
    path, clock = tmp_path / "file", Clock()
    path.write_text("1")
    watched = watch(path, clock)
    path.unlink()
    watched.check()
    clock.now = 1.0
    assert watched.check() == 1
    assert watched.failures == 1


def test_metrics(tmp_path: Path) -> None:
    """Reloads by result, and when certificates end."""
    path, clock = tmp_path / "file", Clock()
    path.write_text("1")
    reloads, ends = families([watch(path, clock)], [("tls", 5.0)])
    assert [(sample.labels["result"], sample.value) for sample in reloads.samples] == [("taken", 0), ("refused", 0)]
    assert [(sample.labels, sample.value) for sample in ends.samples] == [({"credential": "tls"}, 5.0)]
