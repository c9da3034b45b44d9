"""Commands as a reader of a page types them."""

import subprocess
from collections.abc import Mapping
from pathlib import Path


def in_shell(text: str, folder: Path, environment: Mapping[str, str], seconds: float) -> str:
    """What commands print, run in a folder for at most so long; a failure shows all they said."""
    done = subprocess.run(
        ["sh", "-euc", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{text}\nexited {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout
