"""The clients in Go and Java that docs/guides/clients.md shows, compiled and run against a fleet.

They run as they stand, but for the address, and deadlines that a busy machine can keep. They need compilers and
libraries, which Debian has; `./run prove other-clients` says which are missing, and exits with 1 if it tried neither.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.fleet import VERSIONS, Fleet, experiments_file
from tests.support.guides import ADDRESS, blocks
from tests.support.process import ROOT

PAGE = "clients.md"
GO_PATH, JAVA_PATH = Path("/usr/share/gocode"), Path("/usr/share/java")
"""Where Debian has libraries."""
NEEDS = {
    "Go": "golang-go golang-google-grpc-dev golang-goprotobuf-dev protoc-gen-go-grpc protobuf-compiler",
    "Java": "default-jdk-headless libgrpc-java libprotobuf-java libperfmark-java libnetty-java libgoogle-gson-java "
    "protobuf-compiler protobuf-compiler-grpc-java-plugin",
}
PROGRAMS = {"Go": ("go", "protoc", "protoc-gen-go-grpc"), "Java": ("java", "javac", "protoc", "grpc_java_plugin")}
LIBRARIES = {"Go": GO_PATH / "src" / "google.golang.org" / "grpc", "Java": JAVA_PATH / "grpc-stub.jar"}
SECONDS = 600


def main() -> int:
    """Tries both."""
    tried = 0
    with (
        tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name,
        Fleet(Path(name), experiments=experiments_file()) as fleet,
    ):
        for version in VERSIONS:
            fleet.wait_for_serving(version)
        for language, run in (("Go", go), ("Java", java)):
            missing = [one for one in PROGRAMS[language] if shutil.which(one) is None]
            missing += [] if LIBRARIES[language].exists() else [str(LIBRARIES[language])]
            if missing:
                print(f"{language}: not tried, without {', '.join(missing)}; Debian: {NEEDS[language]}")
                continue
            printed = run(Path(name) / language, fleet)
            assert re.fullmatch(r"v1\.3\.0-beta \[(\d+,? ?){5}\]\n1 accepted\n", printed), printed
            print(f"{language}: {printed.splitlines()}", flush=True)
            tried += 1
    return 0 if tried else 1


def go(folder: Path, fleet: Fleet) -> str:
    """What the page's program in Go prints."""
    here = folder / "src" / "shop"
    begin(here, fleet, "--go_out", ("go", "call.go"))
    environment = {"GO111MODULE": "off", "GOPATH": f"{folder}:{GO_PATH}", "GOCACHE": str(folder / "cache")}
    return said("go", "run", ".", cwd=here, more=environment)


def java(folder: Path, fleet: Fleet) -> str:
    """What the page's program in Java prints."""
    begin(folder, fleet, "--java_out", ("java", "Call.java"))
    libraries = f"{JAVA_PATH}/*:."
    said("javac", "-nowarn", "-cp", libraries, "Call.java", cwd=folder)
    return said("java", "-cp", libraries, "Call", cwd=folder)


def begin(folder: Path, fleet: Fleet, mark: str, program: tuple[str, str]) -> None:
    """Runs the page's `protoc`, which has `mark` in it, and writes its program under its name."""
    folder.mkdir(parents=True)
    (folder / "protos").symlink_to(ROOT / "protos")
    (command,) = [text for language, text in blocks(PAGE) if language == "sh" and mark in text]
    said("sh", "-euc", command, cwd=folder)
    (text,) = [text for language, text in blocks(PAGE) if language == program[0]]
    assert text.startswith(f"// {program[1]}\n")
    text = text.replace(ADDRESS, fleet.address)
    (folder / program[1]).write_text(text.replace("2*time.Second", "60*time.Second").replace("(2, Time", "(60, Time"))


def said(*command: str, cwd: Path, more: Mapping[str, str] | None = None) -> str:
    """What a command prints; a failure shows all that it said."""
    environment = {**os.environ, **(more or {})}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
