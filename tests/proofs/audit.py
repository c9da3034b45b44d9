"""Looks every pinned package up for known vulnerabilities with pip-audit: `./run audit`, `./run prove audit`.

pip-audit reads the index's page of the pinned version. A mirror of it may serve the projects' pages alone; such a page
says the same of the project's newest version, so with --index URL what pip-audit could not look up is looked up there
if the pin is the newest. Exit code 1 when an advisory has a fix, or when a package could be looked up nowhere. Needs
uv and a network.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")
SECONDS = 20.0
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*])?==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True)
class Advisory:
    """A known vulnerability of a pinned version, and the versions that mend it."""

    package: str
    version: str
    name: str
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        mended = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fix is known"
        return f"{self.package} {self.version}: {self.name}, {mended}"


class Unknown(Exception):
    """Nobody could be asked about a package; the text says why."""


def pins(lock: str) -> dict[str, str]:
    """The version of each package that a lock file's text pins."""
    return dict(_PIN.findall(lock))


def by_version(lock: Path) -> tuple[list[Advisory], set[str]]:
    """What pip-audit knows of a lock file: the advisories, and the packages that it looked up.

    It leaves out what it cannot find, and what is for another system than this one.
    """
    command = ("uv", "tool", "run", "--quiet", "pip-audit", "--disable-pip", "--require-hashes")
    done = subprocess.run(
        [*command, "--requirement", str(lock), "--format", "json"], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1) or not done.stdout:  # 1: it found some
        raise SystemExit(f"pip-audit ended with {done.returncode} on {lock.name}: {done.stderr.strip()}")
    found: list[Advisory] = []
    asked = set()
    for package in json.loads(done.stdout)["dependencies"]:
        if "skip_reason" not in package:
            asked.add(package["name"])
        for known in package.get("vulns", ()):
            found.append(Advisory(package["name"], package["version"], known["id"], tuple(known["fix_versions"])))
    return found, asked


def by_project(package: str, version: str, index: str | None) -> list[Advisory]:
    """What the project's page on the index says of `version`; Unknown unless that is its newest."""
    if index is None:
        raise Unknown("pip-audit did not find it; --index names an index with projects' pages")
    try:
        with urllib.request.urlopen(f"{index}/pypi/{package}/json", timeout=SECONDS) as answer:
            page: dict[str, Any] = json.load(answer)
    except (OSError, ValueError) as error:  # a refusal and a page that is no JSON are both
        raise Unknown(f"its page cannot be read: {error}") from error
    newest = page["info"]["version"]
    if newest != version:
        raise Unknown(f"the page tells of {newest} alone")
    return [
        Advisory(package, version, known["id"], tuple(known["fixed_in"]))
        for known in page.get("vulnerabilities") or ()
        if not known.get("withdrawn")
    ]


def main() -> int:
    """Runs the audit; 0 when every package was looked up and none has an advisory with a fix."""
    parser = argparse.ArgumentParser(prog="./run audit", description=__doc__)
    parser.add_argument(
        "--index", metavar="URL", help="where /pypi/PROJECT/json is; without it only pip-audit is asked"
    )
    index = parser.parse_args().index
    if shutil.which("uv") is None:
        print("audit needs uv on PATH; install it first (pip install uv)", file=sys.stderr)
        return 2
    pinned: dict[str, str] = {}
    found: set[Advisory] = set()
    asked: set[str] = set()
    for name in LOCKS:
        print(f"auditing {name}", file=sys.stderr)
        pinned |= pins((ROOT / name).read_text())
        advisories, by_pin = by_version(ROOT / name)
        found.update(advisories)
        asked |= by_pin

    def ask(package: str) -> list[Advisory] | Unknown:
        try:
            return by_project(package, pinned[package], index)
        except Unknown as reason:
            return reason

    left = sorted(pinned.keys() - asked)
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(left, pool.map(ask, left), strict=True))
    unknown = {package: answer for package, answer in answers.items() if isinstance(answer, Unknown)}
    found.update(advisory for answer in answers.values() if isinstance(answer, list) for advisory in answer)

    for advisory in sorted(found, key=str):
        print(advisory)
    for package, reason in unknown.items():
        print(f"{package} {pinned[package]}: not looked up, {reason}")
    with_fix = sum(bool(advisory.fixed_in) for advisory in found)
    print(
        f"{len(pinned)} packages: {len(asked)} looked up by version, {len(left) - len(unknown)} as their"
        f" project's newest, {len(unknown)} not; {len(found)} advisories, {with_fix} with a fix"
    )
    return 1 if with_fix or unknown else 0


if __name__ == "__main__":
    sys.exit(main())
