"""A Docker daemon to test against: the one that runs here, or one of our own that leaves nothing behind.

Knows daemons, bridges and base images; nothing of abfleet. Where no registry can be reached, the base image is made
from Debian packages, so that the Dockerfiles build with their FROM lines as they are.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

BASE = "python:3.11-slim"
BRIDGE = "10.77.0.1/24"
POOL = "base=10.78.0.0/16,size=24"
START_SECONDS = 60.0
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
Say = Callable[[str], None]


class CannotTest(Exception):
    """There is no Docker here, and none can be started; says what is missing."""


def run(*command: str | Path, environment: Mapping[str, str] | None = None, seconds: float = 600) -> str:
    """What a command prints. Raises CalledProcessError with all its output in the notes."""
    done = subprocess.run(
        [str(word) for word in command],
        env=dict(environment or os.environ),
        timeout=seconds,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode != 0:
        error = subprocess.CalledProcessError(done.returncode, done.args)
        error.add_note(done.stdout[-4000:])
        raise error
    return done.stdout


def succeeds(*command: str, environment: Mapping[str, str] | None = None) -> bool:
    """Whether a command ends with 0."""
    try:
        run(*command, environment=environment)
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False
    return True


def compose_command() -> tuple[str, ...]:
    """docker-compose, or the plugin of docker that came after it; empty if there is neither."""
    if shutil.which("docker-compose") is not None:
        return ("docker-compose",)
    return ("docker", "compose") if succeeds("docker", "compose", "version") else ()


@contextlib.contextmanager
def docker(say: Say) -> Iterator[dict[str, str]]:
    """The environment in which `docker` and `docker-compose` reach a daemon. Raises CannotTest."""
    if shutil.which("docker") is None or not compose_command():
        raise CannotTest("docker or docker-compose is not installed (Debian: apt install docker.io docker-compose)")
    environment = {**os.environ, "DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "0")}
    if succeeds("docker", "info", environment=environment):
        say("a Docker daemon runs here")
        yield environment
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise CannotTest("no Docker daemon answers, and starting one needs root and dockerd")
    with tempfile.TemporaryDirectory(prefix="abfleet-docker-", ignore_cleanup_errors=True) as folder:
        environment["DOCKER_HOST"] = f"unix://{folder}/docker.sock"
        with own_daemon(Path(folder), environment):
            say("started a Docker daemon for this test, with an empty store")
            yield environment


@contextlib.contextmanager
def own_daemon(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A daemon with everything in `folder`; its bridge, its firewall rules and its mounts are gone in the end."""
    rules, forwarding = run("iptables-save"), FORWARDING.read_text()
    had_bridge = Path("/sys/class/net/docker0").exists()
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                "dockerd",
                "--data-root",
                folder / "data",
                "--exec-root",
                folder / "exec",
                "-p",
                folder / "pid",
                "-H",
                environment["DOCKER_HOST"],
                "--bip",
                BRIDGE,
                "--default-address-pool",
                POOL,
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + START_SECONDS
        while not succeeds("docker", "info", environment=environment):
            if daemon.poll() is not None or time.monotonic() > end:
                raise CannotTest(f"dockerd does not start: {(folder / 'dockerd.log').read_text()[-1000:]}")
            time.sleep(0.2)
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(timeout=60)
        for mount in sorted(mounts_below(folder), reverse=True):
            succeeds("umount", mount)
        if not had_bridge:
            succeeds("ip", "link", "delete", "docker0")
        forget_rules(rules)
        FORWARDING.write_text(forwarding)


def mounts_below(folder: Path) -> list[str]:
    """Mount points in a folder."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{folder}/")]


def forget_rules(before: str) -> None:
    """Removes the chains and rules that Docker made, and sets the policies of the chains as they were."""
    kept = set(before.splitlines())
    table, chains = "", []
    for line in run("iptables-save").splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A") and line not in kept and not line.startswith("-A DOCKER"):
            succeeds("iptables", "-t", table, "-D", *line.split()[1:])
        elif match := re.match(r":(DOCKER\S*)", line):
            if not any(known.startswith(f":{match[1]} ") for known in kept):
                chains.append((table, match[1]))
        elif line.startswith(":FORWARD DROP") and ":FORWARD DROP" not in before and table == "filter":
            succeeds("iptables", "-P", "FORWARD", "ACCEPT")
    for order in ("-F", "-X"):
        for table, chain in chains:
            succeeds("iptables", "-t", table, order, chain)


# --- images ----------------------------------------------------------------------------------------------------------


def provide_base(environment: Mapping[str, str], say: Say) -> None:
    """Sees to it that the image that the Dockerfiles begin with is there: had, pulled, or made from Debian packages."""
    if succeeds("docker", "image", "inspect", BASE, environment=environment):
        say(f"{BASE} is there")
    elif succeeds("docker", "pull", "--quiet", BASE, environment=environment):
        say(f"pulled {BASE}")
    else:
        make_base(environment)
        say(f"no registry can be reached: made {BASE} from Debian packages")


def make_base(environment: Mapping[str, str]) -> None:
    """Debian with Python and pip, and this machine's certificates, under the name of the official image."""
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        raise CannotTest(f"{BASE} cannot be pulled, and making it needs root and debootstrap")
    with tempfile.TemporaryDirectory(prefix="abfleet-base-") as folder:
        root = Path(folder)
        run("debootstrap", "--variant=minbase", "bookworm", root)
        packages = "python3 python3-pip python3-venv ca-certificates"
        run(
            "chroot",
            root,
            "sh",
            "-ec",
            f"export DEBIAN_FRONTEND=noninteractive; apt-get install -y --no-install-recommends {packages};"
            " rm -f /usr/lib/python3*/EXTERNALLY-MANAGED; ln -s /usr/bin/python3 /usr/local/bin/python;"
            " apt-get clean; rm -rf /var/lib/apt/lists/*",
        )
        certificates = "etc/ssl/certs/ca-certificates.crt"
        if (Path("/") / certificates).exists():
            shutil.copyfile(Path("/") / certificates, root / certificates)
        (root / "etc/pip.conf").write_text(f"[global]\ncert = /{certificates}\ntimeout = 120\n")
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as archive:
            subprocess.run(
                ["docker", "import", "-", BASE],
                stdin=archive.stdout,
                env=dict(environment),
                check=True,
                stdout=subprocess.DEVNULL,
            )


def provide_prometheus(image: str, environment: Mapping[str, str], say: Say) -> None:
    """The image of Prometheus: had, pulled, or this machine's own prometheus in an image of that name."""
    if succeeds("docker", "image", "inspect", image, environment=environment):
        return
    if succeeds("docker", "pull", "--quiet", image, environment=environment):
        return
    program = shutil.which("prometheus")
    if program is None:
        raise CannotTest(f"{image} cannot be pulled, and prometheus is not installed to stand in for it")
    with tempfile.TemporaryDirectory(prefix="abfleet-prometheus-") as folder:
        shutil.copy2(program, Path(folder) / "prometheus")
        (Path(folder) / "Dockerfile").write_text(
            f"FROM {BASE}\nCOPY prometheus /bin/prometheus\nRUN install -d -o 65534 -g 65534 /prometheus\n"
            'USER 65534:65534\nENTRYPOINT ["/bin/prometheus"]\n'
        )
        run("docker", "build", "--quiet", "--tag", image, folder, environment=environment)
    say(f"{image} cannot be pulled: this machine's own prometheus stands in for it")
