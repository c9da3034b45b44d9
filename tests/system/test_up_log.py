"""`abfleet up` and the decision log: its flags reach the router, and the router does what they say."""

import json
from pathlib import Path

import grpc
import pytest
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.recommender_pb2_grpc import RecommenderStub

from tests.support.fleet import wait_until
from tests.support.up import START_SECONDS, Up, tiny_models

pytestmark = pytest.mark.system


def test_flags_of_the_log_reach_the_router(tmp_path: Path) -> None:
    """With --log-policy refuse nobody gets an answer while the log has no place; the others are on its command line."""
    registry = tiny_models(tmp_path / "models", ["v1.2.3"])
    text = json.dumps({"version": 1, "default": "v1.2.3", "models": {"v1.2.3": {"target": "dns:///v1.invalid:1"}}})
    flags = ("--log-policy", "refuse", "--flush-interval", "0.2", "--fsync", "always")
    with Up(tmp_path, registry, *flags, experiments=text) as up:
        up.ready()
        words = up.child("-m", "abfleet_router").cmdline()
        for name, value in zip(flags[::2], flags[1::2], strict=True):
            assert words[words.index(name) + 1] == value
        with grpc.insecure_channel(up.address) as channel:
            stub = RecommenderStub(channel)
            assert stub.Recommend(RecommendRequest(user_id="user-1"), timeout=10).model_version == "v1.2.3"
            (tmp_path / "logs").rename(tmp_path / "moved")
            (tmp_path / "logs").write_text("a file where the folder was")

            def refused() -> bool:
                try:
                    stub.Recommend(RecommendRequest(user_id="user-1"), timeout=10)
                except grpc.RpcError as error:
                    return bool(error.code() is grpc.StatusCode.UNAVAILABLE)
                return False

            wait_until(refused, "an answer that is refused")
            (tmp_path / "logs").unlink()
            wait_until(lambda: not refused(), "answers again")
        up.interrupt()
        assert up.ended() == 0, up.text


def test_a_wrong_value_is_named(tmp_path: Path) -> None:
    """Before anything starts, with what is allowed, and exit code 2."""
    with Up(tmp_path, tiny_models(tmp_path / "models", ["v1.2.3"]), "--log-policy", "drop") as up:
        assert "keep_serving" in up.wait_for(r"--log-policy.*drop", START_SECONDS).string
        assert up.ended() == 2
