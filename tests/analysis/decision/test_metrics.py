"""The names of metrics that the file takes, against what the analysis knows of them."""

from abfleet_analysis.decision.metrics import BUILT_IN
from abfleet_experiments.file import keys


def test_the_file_takes_the_built_in_metrics_and_no_others() -> None:
    assert tuple(BUILT_IN) == keys.METRICS
