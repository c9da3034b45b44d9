"""Acts on a file: what they write down, two autopilots at once, persons in between, and files that cannot be edited."""

import json
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from abfleet_autopilot.acting.action_log import ActionLog
from abfleet_autopilot.acting.actor import Actor, CannotAct
from abfleet_experiments.file.load import load_text
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.actions import read_actions

from tests.autopilot.acting.killed_act import ACTS, FILE, NOW, actor, laid_out
from tests.support.process import ROOT


def lines(root: Path) -> list[dict[str, object]]:
    paths = sorted((root / "actions").glob("actions-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_an_action_says_what_and_why(tmp_path: Path) -> None:
    """Its line has what docs/autopilot.md names, and is there before the edit; a second line says that it is done."""
    root = laid_out(tmp_path / "root")
    made = actor(root, 1).act(ACTS["halt"], NOW)
    assert made is not None
    assert made.outcome == "edited"
    action, done = lines(root)
    assert {**action, "id": "", "read_sha256": "", "written_sha256": ""} == {
        "schema": 1,
        "event": "action",
        "ts": "2026-12-01T08:00:00.000000Z",
        "id": "",
        "action": "halt",
        "experiment": "e",
        "group": "canary",
        "traffic": None,
        "before": {"enabled": True, "traffic": 1.0, "weights": {"control": 70.0, "canary": 20.0, "other": 10.0}},
        "after": {"enabled": True, "traffic": 1.0, "weights": {"control": 90.0, "canary": 0.0, "other": 10.0}},
        "reasons": ["it harms"],
        "figures": {},
        "as_of": "1970-01-01T00:00:00.000001Z",
        "as_of_us": 1,
        "revision_before": load_text(FILE).revision,
        "revision_after": load_text((root / "f.yaml").read_text()).revision,
        "read_sha256": "",
        "written_sha256": "",
        "by": "autopilot h",
    }
    assert (done["event"], done["id"], done["outcome"]) == ("action_done", action["id"], "edited")
    assert actor(root, 2).act(ACTS["halt"], NOW) is None
    assert len(lines(root)) == 2


def test_two_autopilots_make_one_edit(tmp_path: Path) -> None:
    """At the same moment, twenty times: one row each, one action each."""
    for number in range(20):
        root = laid_out(tmp_path / f"root-{number}")
        both = threading.Barrier(2)

        def act(which: int, root: Path = root, both: threading.Barrier = both) -> None:
            both.wait()
            actor(root, which).act(ACTS["halt"], NOW + timedelta(seconds=which))

        threads = [threading.Thread(target=act, args=(which,)) for which in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(read_actions(root / "actions")) == 1
        assert len(load_text((root / "f.yaml").read_text()).experiments[0].ramp) == 2


def test_a_file_with_mistakes_is_not_touched(tmp_path: Path) -> None:
    """A person is in the middle of an edit: it is tried again."""
    root = laid_out(tmp_path / "root")
    (root / "f.yaml").write_text("version: 2\n")
    with pytest.raises(CannotAct, match="has mistakes, and nothing is changed in it"):
        actor(root, 1).act(ACTS["halt"], NOW)
    assert (root / "f.yaml").read_text() == "version: 2\n"
    assert lines(root) == []


def applying(root: Path, command: str, in_force: dict[str, datetime]) -> Actor:
    return Actor(
        root / "f.yaml",
        ActionLog(root / "actions", WriterIdentity("h", 1)),
        by="autopilot h",
        apply_command=command,
        in_force=lambda revision, since: revision in in_force and in_force[revision] >= since,
    )


def test_where_the_file_cannot_be_edited_a_command_takes_it_once(tmp_path: Path) -> None:
    """With the whole new file and the sentence; done when a router's log shows the revision in force."""
    root, in_force = laid_out(tmp_path / "root"), {}
    (root / "f.yaml").chmod(0o444)
    script = root / "take.py"
    script.write_text(
        "import sys, pathlib\n"
        "with pathlib.Path(sys.argv[1]).open('a') as file:\n"
        "    file.write(sys.stdin.read() + '# ' + sys.argv[2] + chr(10))\n"
    )
    acting = applying(root, f"{sys.executable} {script} {root / 'taken'}", in_force)
    assert acting.act(ACTS["halt"], NOW) is None
    for seconds in (1, 2, 30):
        assert acting.act(ACTS["halt"], NOW + timedelta(seconds=seconds)) is None
        assert acting.finish(NOW + timedelta(seconds=seconds)) == []
    taken = (root / "taken").read_text()
    assert taken.count("version: 1") == 1
    assert taken.endswith("# halt e canary: it harms\n")
    assert (root / "f.yaml").read_text() == FILE
    in_force[load_text(taken).revision] = NOW + timedelta(seconds=31)
    (made,) = acting.finish(NOW + timedelta(seconds=32))
    assert made.outcome == "applied"
    assert [line["event"] for line in lines(root)] == ["action", "action_applied", "action_done"]


def test_a_command_that_is_not_followed_is_run_again(tmp_path: Path) -> None:
    """After a minute in which no router has shown the revision; one that fails is an error each time."""
    root = laid_out(tmp_path / "root")
    acting = applying(root, "true", {})
    assert acting.act(ACTS["climb"], NOW) is None
    assert acting.finish(NOW + timedelta(seconds=61)) == []
    assert [line["event"] for line in lines(root)] == ["action", "action_applied", "action_applied"]
    other = laid_out(tmp_path / "other")
    for command, why in (("false", "it ended with code 1"), ("no-such-command", "it cannot be run")):
        with pytest.raises(CannotAct, match=why):
            applying(other, command, {}).act(ACTS["halt"], NOW)
    assert len(read_actions(other / "actions")) == 1


def test_a_command_that_fails_is_run_ever_more_rarely(tmp_path: Path) -> None:
    """After 1 and 2 s and so on, however often the autopilot asks; one that works again begins anew."""
    root = laid_out(tmp_path / "root")
    script = root / "take.py"
    script.write_text("import pathlib, sys\npathlib.Path(sys.argv[1]).open('a').write('.')\nsys.exit(1)\n")
    acting = applying(root, f"{sys.executable} {script} {root / 'runs'}", {})
    failed = 0
    for tenths in range(36):
        try:
            acting.act(ACTS["halt"], NOW + timedelta(seconds=tenths / 10))
        except CannotAct:
            failed += 1
    assert (failed, (root / "runs").read_text()) == (3, "...")


def test_acting_loads_no_library_that_keeps_a_process_from_forking() -> None:
    """Else the test that kills acts would prove nothing."""
    code = (
        "import sys, tests.autopilot.acting.killed_act; print(sorted({'numpy', 'duckdb', 'grpc'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
