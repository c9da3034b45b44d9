"""`abfleet assign` at scale, beside the documented formula written down once more."""

import csv
import io
import subprocess
import sys
from collections import Counter

import mmh3
import pytest

from tests.support.fleet import ROOT, VERSIONS

pytestmark = pytest.mark.system
SALT = "recommender-2026-11"
IDS = 100_000


def test_a_hundred_thousand_ids() -> None:
    """Every row is what the formula says, in the order of the ids, and the shares are those of the buckets: 2,000 for
    the experiment from the bottom, 1,000 for the canary from the top, 7,000 for control."""
    ids = [f"user-{number}" for number in range(IDS // 2)] + [f"пользователь-{number}" for number in range(IDS // 2)]
    done = subprocess.run(
        [sys.executable, "-m", "abfleet", "assign", "--experiments", str(ROOT / "experiments" / "recommender.yaml")],
        input="\n".join(ids) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["user_id"] for row in rows] == ids
    by_bucket: Counter[int] = Counter()
    for row in rows:
        bucket = (mmh3.hash(f"{SALT}:{row['user_id']}", 0, signed=False) * 10000) >> 32
        by_bucket[bucket] += 1
        group, version = (
            ("experiment", VERSIONS[1])
            if bucket < 2000
            else ("canary", VERSIONS[2])
            if bucket >= 9000
            else ("control", VERSIONS[0])
        )
        assert row == {
            "user_id": row["user_id"],
            "experiment": "homepage-ranking",
            "group": group,
            "bucket": str(bucket),
            "model_version": version,
            "reason": "allocated",
        }
    groups = Counter(row["group"] for row in rows)
    assert groups == {
        "experiment": sum(by_bucket[bucket] for bucket in range(2000)),
        "canary": sum(by_bucket[bucket] for bucket in range(9000, 10000)),
        "control": sum(by_bucket[bucket] for bucket in range(2000, 9000)),
    }
