"""A real fleet's own log leads to the verdict that its truth deserves: a short form of `./run prove verdicts`."""

import time
from pathlib import Path

import pytest

from tests.proofs import verdicts as proof
from tests.support.up import Up

pytestmark = pytest.mark.system
GROUPS = {"control": ("v1.2.3", 40.0), "better": ("v1.3.0-beta", 40.0), "broken": ("v1.4.0-rc1", 20.0)}
PLAN: dict[str, str | float] = {"effect": 0.2, "look": "1s", "minimum": "3s", "horizon": "10s"}
TRAFFIC = ("--rate", "150", "--duration", "6", "--users", "900", "--effect", "better=0.8")


def test_a_fleet_s_log_leads_to_ship_roll_back_and_refuse(tmp_path: Path) -> None:
    """The group that is clicked more often is shipped; the one whose model fails is rolled back
    while the other goes on; and of the same log without some lines of a group nothing is concluded about a winner."""
    models = proof.registry(tmp_path / "models", {"v1.4.0-rc1": "raises"})
    with Up(tmp_path, models, experiments=proof.experiments(GROUPS, PLAN)) as up:
        up.ready()
        with proof.calling(up.address, *TRAFFIC) as under_way:
            while under_way():
                time.sleep(0.05)
        up.interrupt()
        assert up.ended() == 0, up.text
        found, lossy = proof.analysed(up), proof.analysed(up, losing="better", share=0.7)
    assert found is not None
    assert lossy is not None
    decisions = {group["name"]: group["decision"] for group in found["groups"]}
    assert decisions["better"] == "ship", found["decision"]
    assert decisions["broken"] == "roll_back", found["decision"]
    assert (found["decision"]["verdict"], found["decision"]["group"]) == ("roll_back", "broken")
    assert found["srm"]["ok"]
    lost = {group["name"]: group["decision"] for group in lossy["groups"]}
    assert lost["better"] == "refuse", lossy["decision"]
    assert not lossy["srm"]["ok"]
