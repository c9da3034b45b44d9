"""`abfleet shadow`: how the answers of a version in the shadow of others compare with those that users got."""

from pathlib import Path

import typer

from abfleet.commands.analysis_options import DEFAULT_LOGS, Logs, analysis_extra
from abfleet.commands.experiment_file import Json, refuse
from abfleet.commands.tables import printable, say, say_json


def register(app: typer.Typer) -> None:
    """Adds this command to the command line."""
    app.command(epilog="Example: abfleet shadow --logs logs")(shadow)


def shadow(logs: Logs = DEFAULT_LOGS, as_json: Json = False) -> None:
    """Compare what versions answered in the shadow of others with what users got, request by request.

    How alike the lists are, with intervals clustered by user; latency, errors, and the requests that differ most. Which
    versions are asked in the shadow is the key `shadow` of the experiments file.
    """
    with analysis_extra():
        from abfleet_analysis.reading.open_log import LogError
        from abfleet_analysis.shadow.compare import compare_answers
        from abfleet_analysis.shadow.words import document, lines

    try:
        report = compare_answers(logs)
    except LogError as error:
        refuse(f"--logs: {error}")
    if as_json:
        say_json(document(report), indent=2)
        return
    for line in lines(report):
        say(printable(line))


def compared_on(logs: list[Path], version: str) -> int:
    """How many requests a version has been compared on in the shadow. Exits where there is no log."""
    with analysis_extra():
        from abfleet_analysis.reading.open_log import LogError
        from abfleet_analysis.shadow.compare import compared_requests

    try:
        return compared_requests(logs, version)
    except LogError as error:
        refuse(f"--logs: {error}")
