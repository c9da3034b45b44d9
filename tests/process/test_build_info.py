"""Which build this is: the clone's commit, however git keeps it, and what the environment says instead."""

import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest
from abfleet_process import build_info

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def clone(root: Path, head: str) -> Path:
    """A folder that looks like a clone."""
    (root / ".git").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    (root / ".git" / "HEAD").write_text(head)
    return root


def test_the_commit_of_a_clone(tmp_path: Path) -> None:
    """A branch in a file of its own or packed, no branch at all, and a worktree with its own folder."""
    loose = clone(tmp_path / "loose", "ref: refs/heads/main\n")
    (loose / ".git" / "refs" / "heads").mkdir(parents=True)
    (loose / ".git" / "refs" / "heads" / "main").write_text(f"{COMMIT}\n")
    packed = clone(tmp_path / "packed", "ref: refs/heads/main\n")
    (packed / ".git" / "packed-refs").write_text(f"# pack-refs\n{COMMIT} refs/heads/main\n")
    detached = clone(tmp_path / "detached", f"{COMMIT}\n")
    worktree, kept = tmp_path / "worktree", packed / ".git" / "worktrees" / "w"
    worktree.mkdir()
    kept.mkdir(parents=True)
    (worktree / "pyproject.toml").touch()
    (worktree / ".git").write_text(f"gitdir: {kept}\n")
    (kept / "HEAD").write_text("ref: refs/heads/main\n")
    (kept / "commondir").write_text("../..\n")
    assert {build_info._of_clone(one) for one in (loose, packed, detached, worktree)} == {COMMIT}


def test_no_clone_has_no_commit(tmp_path: Path) -> None:
    """An installed wheel, somebody else's repository around it, a branch without a commit: nothing is made up."""
    unborn = clone(tmp_path / "unborn", "ref: refs/heads/main\n")
    foreign = clone(tmp_path / "foreign", COMMIT)
    (foreign / "pyproject.toml").unlink()
    assert {build_info._of_clone(one) for one in (tmp_path, unborn, foreign)} == {""}


def test_an_image_says_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """ABFLEET_REVISION counts where it is a commit; what is none is passed over."""
    monkeypatch.setenv("ABFLEET_REVISION", COMMIT)
    assert build_info.build_info.__wrapped__().revision == COMMIT[:12]
    monkeypatch.setenv("ABFLEET_REVISION", "latest\n<script>")
    assert build_info.build_info.__wrapped__().revision != "latest"


@pytest.mark.parametrize(
    ("file", "form"),
    [("frames.py", "plain"), *((f"frames{suffix}", "compiled") for suffix in EXTENSION_SUFFIXES), (None, "plain")],
)
def test_the_form_is_that_of_the_file_that_is_loaded(
    monkeypatch: pytest.MonkeyPatch, file: str | None, form: str
) -> None:
    """Machine code beside the source is what Python takes; who has no transport installed is plain."""
    found = None if file is None else SimpleNamespace(origin=f"/site-packages/abfleet_transport/http2/{file}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    build = build_info.build_info.__wrapped__()
    assert build.form == form
    assert f" {form}, Python " in str(build)
