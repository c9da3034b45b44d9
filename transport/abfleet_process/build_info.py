"""Which build of abfleet this is, and on what it runs. Reads installed metadata and a clone's .git."""

import importlib.util
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prometheus_client.core import Metric

UNKNOWN: Final = "unknown"
REVISION: Final = re.compile(r"[0-9a-f]{7,64}")
SHOWN_DIGITS: Final = 12
LIBRARIES: Final = ("grpcio", "onnxruntime")
SAMPLE_MODULE: Final = "abfleet_transport.http2.frames"
"""One of those that a compiled wheel holds as machine code; they are compiled all together or not at all."""


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """Versions; one that cannot be known is `unknown`, a library that is not installed is empty.

    Attributes:
        revision: The first digits of the git commit: of `ABFLEET_REVISION`, which images set, or of the clone.
        form: `compiled` where the data path runs as machine code, else `plain`.
    """

    version: str
    revision: str
    python: str
    grpcio: str
    onnxruntime: str
    form: str

    def __str__(self) -> str:
        revision = "" if self.revision == UNKNOWN else f" ({self.revision})"
        libraries = [f"{name} {version}" for name in LIBRARIES if (version := getattr(self, name))]
        return ", ".join((f"abfleet {self.version}{revision} {self.form}", f"Python {self.python}", *libraries))


def families() -> "Iterator[Metric]":
    """`abfleet_build_info`, for a process' metrics: which build it is, as labels of a 1."""
    from prometheus_client.core import GaugeMetricFamily

    build = asdict(build_info())
    family = GaugeMetricFamily(
        "abfleet_build_info",
        "Versions of abfleet, Python and libraries, the git commit, and compiled or plain; always 1.",
        labels=[*build],
    )
    family.add_metric([*build.values()], 1)
    yield family


@cache
def build_info() -> BuildInfo:
    """This process' build; a clone is read once."""
    grpcio, onnxruntime = (_version(name, "") for name in LIBRARIES)
    given = os.environ.get("ABFLEET_REVISION", "").strip().lower()
    revision = given if REVISION.fullmatch(given) else _of_clone(Path(__file__).resolve().parents[2])
    return BuildInfo(
        version=_version("abfleet", UNKNOWN),
        revision=revision[:SHOWN_DIGITS] or UNKNOWN,
        python=platform.python_version(),
        grpcio=grpcio,
        onnxruntime=onnxruntime,
        form="compiled" if _is_compiled() else "plain",
    )


def _is_compiled() -> bool:
    try:
        spec = importlib.util.find_spec(SAMPLE_MODULE)
    except ModuleNotFoundError:  # there is no transport
        return False
    return spec is not None and (spec.origin or "").endswith(tuple(EXTENSION_SUFFIXES))


def _version(name: str, missing: str) -> str:
    try:
        return installed(name)
    except PackageNotFoundError:
        return missing


def _of_clone(root: Path) -> str:
    """The commit that a clone's HEAD names; empty where this is none, as where a wheel is installed."""
    try:
        if not (root / "pyproject.toml").is_file():
            return ""
        folder = root / ".git"
        if folder.is_file():  # a worktree: the file names its folder
            folder = root / folder.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return head if REVISION.fullmatch(head) else ""
        shared = folder / "commondir"
        common = folder / shared.read_text(encoding="utf-8").strip() if shared.is_file() else folder
        return _of_reference(common, head.removeprefix("ref:").strip())
    except (OSError, ValueError):
        return ""


def _of_reference(folder: Path, name: str) -> str:
    loose = folder / name
    if loose.is_file():
        found = loose.read_text(encoding="utf-8").strip()
        return found if REVISION.fullmatch(found) else ""
    for line in (folder / "packed-refs").read_text(encoding="utf-8").splitlines():
        commit, _, reference = line.partition(" ")
        if reference == name and REVISION.fullmatch(commit):
            return commit
    return ""
