"""A command that takes the new file where this process cannot write it: a ConfigMap, a repository. No shell."""

import shlex
import subprocess
from typing import Final

TIMEOUT_SECONDS: Final = 60.0
FIRST_FAILED_SECONDS: Final = 1.0
"""Until a command that failed is run again; then ever more rarely, up to FIRST_RETRY_SECONDS."""
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 60.0, 600.0
SHOWN_CHARACTERS: Final = 200


class NotApplied(Exception):
    """The command failed; the message is for people."""


def apply(command: str, content: bytes, sentence: str) -> None:
    """Runs the command with the new file on its standard input and the sentence as its last argument.

    Raises NotApplied unless it ends with 0 in time.
    """
    try:
        done = subprocess.run(
            [*shlex.split(command), sentence],
            input=content,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, ValueError) as error:
        raise NotApplied(f"it cannot be run: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise NotApplied(f"it has not ended within {TIMEOUT_SECONDS:g} s") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-SHOWN_CHARACTERS:]
        raise NotApplied(f"it ended with code {done.returncode}" + (f": {said}" if said else ""))
