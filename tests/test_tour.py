"""docs/tour.md, done from top to bottom: every command in it runs as it stands, against `abfleet up` on free ports."""

import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.recommender_pb2_grpc import RecommenderStub

from tests.support.fleet import Process, status_of, wait_until
from tests.support.load import SEED_HISTORY
from tests.support.shell import in_shell

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FREE = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--metrics-port", "0", "--worker-port", "0")
SECONDS = 120


class Tourist:
    """Somebody with a checkout and a second terminal in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("ABFLEET_")}
        self.environment["COLUMNS"] = "200"
        self.blocks = iter(BLOCKS)

    @contextmanager
    def up(self, expected: str) -> Iterator[None]:
        """The next block is this command: runs it on free ports, and leaves it as Ctrl-C does."""
        assert next(self.blocks).strip() == expected
        process = Process("up", "abfleet", ("up", *FREE, "--dashboard-port", "off", *expected.split()[2:]), self.folder)
        try:
            words = process.ready()
            self.environment |= {"ABFLEET_ADDRESS": words[1], "ABFLEET_ADMIN": words[3]}
            yield
        finally:
            assert process.stop() == 0

    def next(self) -> str:
        """Runs the next block in a shell; what it printed."""
        return self.sh(next(self.blocks))

    def sh(self, text: str) -> str:
        """Runs commands in the checkout; a failure shows all they said."""
        return in_shell(text, self.folder, self.environment, SECONDS)

    def versions(self, *users: str) -> "Counter[str]":
        """Which versions answer these users now."""
        with grpc.insecure_channel(self.environment["ABFLEET_ADDRESS"]) as channel:
            stub = RecommenderStub(channel)
            requests = [RecommendRequest(item_ids=SEED_HISTORY, user_id=user) for user in users]
            return Counter(stub.Recommend(request, timeout=10).model_version for request in requests)

    def serving(self) -> set[str]:
        """Pools with a worker in, as the router's status has them."""
        return {pool.version for pool in status_of(self.environment["ABFLEET_ADMIN"]).pools if pool.available}

    def until_nobody_gets(self, version: str) -> None:
        """Waits until a call without a user is answered by this version: the default is it now."""
        wait_until(lambda: self.versions("") == {version: 1}, f"the default is {version}", 60)


@pytest.fixture
def tourist(tmp_path: Path) -> Tourist:
    """A checkout: what the tour changes is copied, the rest is linked."""
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    shutil.copytree(ROOT / "models", tmp_path / "models", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("abfleet", "python"):
        (tools / name).symlink_to(Path(sys.executable).with_name(name))
    (tmp_path / "run").write_text('#!/bin/sh\nexec .venv/bin/abfleet "$@"\n')  # which is all it does once it is set up
    (tmp_path / "run").chmod(0o755)
    return Tourist(tmp_path)


def test_the_tour(tourist: Tourist) -> None:
    """Each step says what the page says it says."""
    users = [f"user-{number}" for number in range(200)]
    with tourist.up("./run up"):
        called = tourist.next()
        for word in ("v1.3.0-beta", "control", "experiment", "canary"):
            assert word in called
        assert '"event":' in tourist.next()
        planned = tourist.next()
        assert re.search(r"\b35(\.0+)? ?%", planned), planned
        wait_until(lambda: tourist.versions(*users)["v1.3.0-beta"] > 90, "55 % of 200 users have the new version", 60)
    with tourist.up("./run up --replicas v1.3.0-beta=2"):
        assert re.search(r"v1\.3\.0-beta.*\b2\b", tourist.next())
        assert tourist.versions(*users)["v1.3.0-beta"] > 90
        assert "production" in tourist.next()
        wait_until(lambda: "production" in tourist.serving(), "a worker follows the alias", 60)
        assert "v1.3.0-beta" in tourist.next()
        tourist.until_nobody_gets("v1.3.0-beta")
        tourist.next()
        tourist.until_nobody_gets("v1.2.3")
        assert "KEEP RUNNING" in tourist.next()
        tourist.next()
        text = (tourist.folder / "experiments" / "recommender.yaml").read_text()
        experiments, _, concluded = text.partition("\nconcluded:")
        assert "homepage-ranking" not in experiments
        assert "homepage-ranking" in concluded
        wait_until(lambda: tourist.versions(*users) == {"v1.3.0-beta": 200}, "everyone has the winner", 60)
    assert list(tourist.blocks) == [], "blocks that nobody ran"
