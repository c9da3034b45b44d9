"""The report as a page in a file: `--html` of `abfleet analyze`."""

from pathlib import Path
from typing import TYPE_CHECKING

from abfleet_process.atomic_file import WriteError, check_writable, write_whole

from abfleet.commands.experiment_file import refuse

if TYPE_CHECKING:
    from abfleet_analysis.report.report import Report
    from abfleet_experiments.config import Config


def check(path: Path) -> None:
    """Refuses a path that cannot be written, or a missing library, before the log is read."""
    try:
        import abfleet_dashboard.pages  # noqa: F401 - asked early, used later
    except ImportError as error:
        refuse(f"--html needs {error.name}; run pip install 'abfleet[dashboard]'")
    try:
        check_writable(path)
    except WriteError as error:
        refuse(f"--html: {error}")


def write(path: Path, report: "Report", config: "Config") -> None:
    """Writes the page, whole or not at all."""
    from abfleet_dashboard.pages import report_file

    try:
        write_whole(path, report_file(report, config=config))
    except WriteError as error:
        refuse(f"--html: {error}")
