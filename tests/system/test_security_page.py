"""docs/security.md: the commands that turn TLS on run as they stand, on free ports, and a call goes through."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from abfleet_process.flags import Flags
from abfleet_router.security import security_settings

from tests.support.certificates import needs_openssl
from tests.support.fleet import ROOT, Process

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MODULES = {"worker": "abfleet_worker", "router": "abfleet_router"}


def block(begin: str) -> str:
    (found,) = [text for text in BLOCKS if text.startswith(begin)]
    return str(found)


def flags_of(text: str) -> list[str]:
    """The words after `abfleet COMMAND`."""
    return shlex.split(text.replace("\\\n", " "))[2:]


def with_port(words: list[str], old: str, new: str) -> list[str]:
    assert any(old in word for word in words), f"{old} is not in {words}"
    return [word.replace(old, new) for word in words]


def start(command: str, words: list[str], folder: Path) -> tuple[Process, str]:
    """Runs a server of the page, and gives where it listens."""
    process = Process(command, MODULES[command], words, folder)
    return process, process.ready()[1]


@pytest.mark.system
@needs_openssl
def test_turning_on_tls(tmp_path: Path) -> None:
    """Certificates by openssl, a worker, a router and a caller with them: the caller gets its answer."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "experiments").mkdir()
    shutil.copy(ROOT / "experiments" / "recommender.yaml", tmp_path / "experiments")
    done = subprocess.run(["sh", "-ec", block("mkdir")], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    running = []
    try:
        words = with_port(flags_of(block("abfleet worker")), "50061", "0")
        worker, address = start("worker", [*words, "--metrics-port", "off"], tmp_path)
        running.append(worker)
        (fleet,) = re.findall(r"`(models: \{.*\})`", PAGE)
        port = address.rpartition(":")[2]
        (tmp_path / "fleet.yaml").write_text(f"version: 1\n{fleet.replace('50061', port)}\n")
        words = with_port(flags_of(block("abfleet router")), "50051", "0")
        router, address = start("router", [*words, "--admin-listen", "127.0.0.1:0", "--metrics-port", "off"], tmp_path)
        running.append(router)
        words = with_port(flags_of(block("abfleet client")), "50051", address.rpartition(":")[2])
        command = [sys.executable, "-m", "abfleet", "client", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "served by v1.2.3" in done.stdout
    finally:
        for process in reversed(running):
            process.stop()


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="the program haproxy is not installed")
@needs_openssl
def test_the_proxys_command(tmp_path: Path) -> None:
    """Its variables are those that the file asks for; checked instead of run, because of the port."""
    subprocess.run(["sh", "-ec", block("mkdir")], cwd=tmp_path, capture_output=True, check=True)
    (tmp_path / "compose").symlink_to(ROOT / "compose")
    command = block("EDGE_LISTEN").replace("haproxy -f", "haproxy -c -f")
    done = subprocess.run(["sh", "-ec", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_flag_of_security_is_on_the_page() -> None:
    """Those of the router are those of the worker and more."""
    flags = Flags("x", "x", "x", {})
    security_settings.add(flags)
    names = re.findall(r"--([a-z][a-z-]+)", flags._parser.format_help())
    assert len(names) > 10
    assert [name for name in names if name not in ("help", "a-b") and f"--{name}" not in PAGE] == []
