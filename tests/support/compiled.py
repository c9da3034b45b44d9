"""An environment with the compiled wheel, and all else that is installed here but the checkout."""

import hashlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
MODULES: tuple[str, ...] = tuple(PROJECT["hooks"]["custom"]["compiled"])
"""Files that a compiled wheel has as machine code too, from the root."""
WITHOUT_CHECKOUT = ("PYTHONPATH", "PYTHONHOME")


class NotBuilt(Exception):
    """There is no compiled wheel; the message is what the build said."""


def name_of(module: str) -> str:
    """`abfleet_transport.http2.frames` for its file."""
    return ".".join(Path(module).with_suffix("").parts[1:])


def environment(folder: Path) -> Path:
    """The interpreter of the environment in `folder`, which is made where it is not there or the sources have changed.

    Raises NotBuilt, where there is no compiler too.
    """
    folder = folder.resolve()
    python, stamp, wanted = folder / "bin" / "python", folder / "sources", _sources()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    stamp.unlink(missing_ok=True)
    _done(sys.executable, "-m", "venv", "--clear", folder)
    dist = folder / "dist"
    for root, asked in ((ROOT, "1"), (ROOT / "protos", "0")):
        _done(
            *(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", dist),
            cwd=root,
            asked=asked,
        )
    _done(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", *dist.glob("*.whl"))
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    here, there = _done(sys.executable, "-c", purelib).strip(), _done(python, "-c", purelib).strip()
    # A folder named in a .pth file is added without the .pth files in it, so the editable checkout stays out.
    (Path(there) / "dependencies.pth").write_text(f"{here}\n")
    stamp.write_text(wanted)
    return python


def variables() -> Mapping[str, str]:
    """For a process of that environment: those of this one, but nothing that would lead it to the checkout."""
    return {name: value for name, value in os.environ.items() if name not in WITHOUT_CHECKOUT}


def _sources() -> str:
    """A digest of all that the wheels are made of."""
    digest = hashlib.sha256(sys.version.encode())
    roots = (*PROJECT["packages"], "protos/abfleet_protos", "protos/abfleet_client")
    for path in sorted(
        (
            *(file for root in roots for file in (ROOT / root).rglob("*.py")),
            ROOT / "hatch_build.py",
            ROOT / "pyproject.toml",
        )
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _done(*command: str | Path, cwd: Path = ROOT, asked: str = "0") -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**variables(), "ABFLEET_COMPILE": asked},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotBuilt(done.stdout.strip()[-4000:])
    return done.stdout
