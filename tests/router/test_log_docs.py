"""docs/decision-log.md against the code: every flag of the log with its default."""

import re
from pathlib import Path

import pytest
from abfleet_process.flags import variable
from abfleet_router.settings import parse

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "decision-log.md").read_text()
ROWS = dict(re.findall(r"^\| `--([a-z-]+)` \| [^|]*\| ([^|]+?) \|", PAGE, re.MULTILINE))


def test_every_flag_of_the_log_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that --help lists about log, outcomes and user ids; giving the documented default changes nothing."""
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    names = set(re.findall(r"--((?:log-(?!level|format)|flush|fsync|feedback|open-feedback|user-id)[a-z-]*)", text))
    assert set(ROWS) == {name for name in names if not name.startswith("no-")}
    for name, default in ROWS.items():
        word = default.strip("`").split(":")[0].replace(",", "")
        if word in ("none", "off"):
            assert parse([], {}) == parse([], {variable(name): {"none": "", "off": "off"}[word]}), name
        else:
            assert parse([f"--{name}", word], {}) == parse([], {}), name
