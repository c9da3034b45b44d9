"""Compiles a wheel's hottest modules with mypyc where ABFLEET_COMPILE=1 asks for that; else does nothing.

Which modules, and by what rule, is in pyproject.toml. A compiled wheel holds their sources too, and is for one Python
and platform. To build it takes a C compiler and Python's headers, to install it neither.
"""

import os
import shlex
import shutil
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ASKED = os.environ.get("ABFLEET_COMPILE", "0")
COMPILER = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
"""As setuptools finds it."""
NEEDS = ("mypy[mypyc]>=2.4", "setuptools")
"""Beside what the modules import, which is asked for its types."""
TYPES = (
    "--config-file=",  # ./run check has judged them; here types are only read
    "--explicit-package-bases",
    "--ignore-missing-imports",
    "--follow-imports=silent",
)


class CompileHook(BuildHookInterface[BuilderConfig]):
    """Adds what mypyc makes of the modules that are listed to a wheel."""

    def dependencies(self) -> list[str]:
        return [*NEEDS, *self.metadata.core.dependencies] if ASKED == "1" else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if ASKED not in ("0", "1"):
            raise SystemExit(f"ABFLEET_COMPILE: {ASKED[:64]!r}; allowed: 0, 1")
        if ASKED == "0":
            return
        if version == "editable":
            raise SystemExit("ABFLEET_COMPILE: '1'; allowed: 0 for an editable install, which runs the sources")
        self.made = Path(tempfile.mkdtemp(prefix="abfleet-compile-"))
        roots = [str(Path(package).parent) for package in (*self.build_config.packages, "protos/abfleet_protos")]
        library = compile_modules(self.config["compiled"], roots, self.made)
        for made in library.rglob("*"):
            if made.is_file():
                build_data["force_include"][str(made)] = made.relative_to(library).as_posix()
        build_data["pure_python"], build_data["infer_tag"] = False, True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if ASKED == "1":
            shutil.rmtree(self.made)


def compile_modules(modules: Sequence[str], roots: Sequence[str], folder: Path) -> Path:
    """Compiles files that are named from the working directory; the folder, in `folder`, that has what came of them.

    `roots`: folders that hold packages. Raises SystemExit that says what is missing or wrong.
    """
    if shutil.which(shlex.split(COMPILER)[0]) is None:
        raise SystemExit(
            f"compiler: {COMPILER[:64]!r} is not a program; install a C compiler (Debian and Ubuntu: apt install gcc), "
            "or build without ABFLEET_COMPILE"
        )
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise SystemExit(
            f"headers: {headers} has no Python.h; install it (Debian and Ubuntu: apt install python3-dev), "
            "or build without ABFLEET_COMPILE"
        )
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    os.environ["MYPYPATH"] = os.pathsep.join(roots)
    arguments = [*TYPES, f"--cache-dir={folder / 'types'}", *modules]
    # Without what a debugger reads, which names folders of this machine.
    extensions = mypycify(arguments, group_name="abfleet", target_dir=str(folder / "c"), debug_level="0")
    command = build_ext(Distribution({"name": "abfleet", "ext_modules": extensions}))
    command.build_lib, command.build_temp = str(folder / "library"), str(folder / "objects")
    command.ensure_finalized()
    command.run()
    return folder / "library"
