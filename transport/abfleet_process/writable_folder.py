"""Whether a folder that a flag names can be written to, asked before anything starts that would find out later."""

import tempfile
from contextlib import suppress
from pathlib import Path


def folder_problem(folder: Path) -> str | None:
    """Why no file can be made in the folder, in words that go after its path; None if one can.

    A folder that is not there yet is made for the trial, and taken away again. Its parent must be there: what lacks it
    is more often a mistyped path than a folder to be made.
    """
    if folder.exists() and not folder.is_dir():
        return "is not a folder"
    if not folder.exists() and not folder.parent.is_dir():
        return f"cannot be created: the folder {folder.parent} does not exist"
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".trial-"):
            return None
    except OSError as error:
        what = "cannot be written to" if folder.exists() else "cannot be created"
        return f"{what}: {error.strerror or error}"
    finally:
        if made:
            with suppress(OSError):
                folder.rmdir()  # only if it is empty: another process may have begun to use it
