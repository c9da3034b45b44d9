"""A real A/B test through log files and the command line: the Open Bandit Dataset, and a made-up twin without it.

The dataset (Saito et al., arXiv 2008.07146; ZOZO, CC BY 4.0) is not part of the repository: ABFLEET_TEST_DATA names a
folder that has it as obd/{random,bts}_{men,women}.csv.gz. Each impression is taken as a user, random as control.
"""

import csv
import gzip
import json
import math
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from abfleet.cli import app
from tests.analysis.log_lines import START, LogLines, file_text

POLICIES = {"control": "random", "treatment": "bts"}
Impressions = Iterator[tuple[datetime, int, bool]]


def impressions(campaign: str, policy: str) -> Impressions:
    """Time, item and click of each impression of the dataset."""
    folder = os.environ.get("ABFLEET_TEST_DATA")
    if folder is None:
        pytest.skip("ABFLEET_TEST_DATA is not set; it names a folder with obd/random_men.csv.gz and the like")
    path = Path(folder) / "obd" / f"{policy}_{campaign}.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            yield datetime.fromisoformat(row["timestamp"]), int(row["item_id"]), row["click"] == "1"


def twin(clicks: int, seed: int) -> Impressions:
    """10,000 impressions over a week with so many clicks."""
    clicked = np.random.default_rng(seed).permutation(np.arange(10_000) < clicks)
    for index, one in enumerate(clicked):
        yield START + timedelta(seconds=60.4 * index), index % 34, bool(one)


def analysed(folder: Path, by_group: dict[str, Impressions]) -> dict[str, object]:
    """The report of the command on the impressions as a log."""
    log = LogLines()
    for group, rows in by_group.items():
        for index, (at, item, clicked) in enumerate(rows):
            request = log.exposure(f"{group}-{index}", group, at, items=[item])
            if clicked:
                log.outcome("click", f"{group}-{index}", request, at, item_id=item)
    log.write(folder)
    (folder / "experiments.yaml").write_text(file_text("ctr", ("error_rate",)))
    arguments = ["analyze", "--logs", str(folder), "--experiments", str(folder / "experiments.yaml"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (experiment,) = json.loads(result.stdout)["experiments"]
    return dict(experiment)


def check(experiment: dict[str, object], clicks: tuple[int, int]) -> None:
    """The report says what scipy says of two samples with so many clicks of 10,000, and concludes nothing from it."""
    found = next(m for m in experiment["metrics"] if m["name"] == "ctr")  # type: ignore[attr-defined]
    control, treatment = (np.repeat([1.0, 0.0], [n, 10_000 - n]) for n in clicks)
    assert (found["baseline_value"], found["value"]) == (clicks[0] / 1e4, clicks[1] / 1e4)
    se = math.sqrt(control.var(ddof=1) / 1e4 + treatment.var(ddof=1) / 1e4)
    assert found["se"] == pytest.approx(se, abs=1e-9)
    difference = (clicks[1] - clicks[0]) / 1e4
    assert found["interval"] == pytest.approx([difference - 1.959964 * se, difference + 1.959964 * se], abs=1e-8)
    assert found["p_value"] == pytest.approx(2 * stats.norm.sf(abs(difference) / se), abs=1e-9)
    assert experiment["decision"]["verdict"] == "keep_running"  # type: ignore[index]
    assert {look["verdict"] for look in experiment["history"]} == {"keep_running"}  # type: ignore[attr-defined]
    assert experiment["srm"]["ok"]  # type: ignore[index]


@pytest.mark.parametrize(("campaign", "clicks"), [("men", (46, 69)), ("women", (46, 46))])
def test_open_bandit_dataset(tmp_path: Path, campaign: str, clicks: tuple[int, int]) -> None:
    """Men: 0.46 against 0.69 %, p = 0.03, and no premature ship. Women: 0.46 against 0.46 %."""
    check(analysed(tmp_path, {group: impressions(campaign, one) for group, one in POLICIES.items()}), clicks)


def test_its_twin(tmp_path: Path) -> None:
    """The same numbers of clicks at made-up times, for where the dataset is not."""
    check(analysed(tmp_path, {"control": twin(46, 1), "treatment": twin(69, 2)}), (46, 69))
