"""Commands that release models: promote, rollback, archive, restore, add, init, diff."""

import getpass
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from abfleet_process.counting import counted

from abfleet.commands.analysis_options import DEFAULT_LOGS, Logs
from abfleet.commands.experiment_file import DEFAULT_EXPERIMENTS, Experiments, loaded
from abfleet.commands.shadow import compared_on
from abfleet.commands.tables import print_table

if TYPE_CHECKING:
    from abfleet_models.comparison import VersionComparison
    from abfleet_models.registry import ModelVersion, Registry
    from abfleet_models.release import Release
    from abfleet_models.trail import ReleaseEvent

USAGE, FAILURE = 2, 1
PLAIN_HISTORIES = ((0, 0, 0, 0, 0), (1, 2, 3, 10, 15), (0, 0, -1, 2**62, 1))
"""Golden histories of a first model that brings none: a cold start, a short one, one with ids that nobody knows."""

RegistryOption = Annotated[
    Path, typer.Option("--registry", envvar="ABFLEET_REGISTRY", help="Folder of the model registry.")
]
JsonOption = Annotated[bool, typer.Option("--json", envvar="ABFLEET_JSON", help="Print JSON.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="Version in the registry.")]
ToOption = Annotated[str, typer.Option("--to", metavar="ALIAS", help="Alias to move: production or staging.")]
OfOption = Annotated[str, typer.Option("--of", metavar="ALIAS", help="Alias to roll back: production or staging.")]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Reason of the release, kept in registry.json.")
]
ByOption = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Name of the person who releases. Default: the login name.")
]


def register(models: typer.Typer) -> None:
    """Adds these commands to `abfleet models`."""
    for name, command, example in (
        ("promote", promote, "promote v1.3.0-beta --to production --reason 'won homepage-ranking'"),
        ("rollback", rollback, "rollback --of production"),
        ("archive", archive, "archive v1.2.3"),
        ("restore", restore, "restore v1.2.2"),
        ("add", add, "add ranker.onnx --version v2.0.0"),
        ("init", init, "init my-model"),
        ("diff", diff, "diff production v1.4.0-rc1"),
    ):
        models.command(name, epilog=f"Example: abfleet models {example}")(command)


def promote(
    version: VersionArgument,
    to: ToOption = "production",
    registry: RegistryOption = Path("models"),
    reason: ReasonOption = None,
    by: ByOption = None,
    logs: Logs = DEFAULT_LOGS,
    require_shadow: Annotated[
        int | None,
        typer.Option(
            "--require-shadow",
            min=1,
            metavar="REQUESTS",
            help="Requests that the version must have been compared on in shadow calls; else exit code 1.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Point an alias to a version, after verifying its files and golden answers.

    Workers that serve the alias change to the version by themselves, without losing a call.
    """
    from abfleet_models.golden.verification import verify_golden

    with _releasing(registry, reason, by) as release:
        found = release.registry.resolve(version)
        if require_shadow is not None:
            _require_shadow(logs, found.version, require_shadow)
        verify_golden(found)
        event = release.promote(version, alias=to)
        _print_event(release, event, f"{to} already points to {found.version}", as_json=as_json)


def _require_shadow(logs: list[Path], version: str, least: int) -> None:
    compared = compared_on(logs, version)
    if compared < least:
        _stop(
            f"--require-shadow: {version} was compared on {counted(compared, 'request')}, allowed: {least:,} or more; "
            "see abfleet shadow",
            FAILURE,
        )


def rollback(
    of: OfOption = "production",
    registry: RegistryOption = Path("models"),
    reason: ReasonOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Point an alias to the version before its last promotion; a second rollback goes back further."""
    from abfleet_models.golden.verification import verify_golden

    with _releasing(registry, reason, by) as release:
        verify_golden(release.rollback_target(of))
        _print_event(release, release.rollback(of), as_json=as_json)


def archive(
    version: VersionArgument,
    registry: RegistryOption = Path("models"),
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    force: Annotated[
        bool, typer.Option("--force", help="Archive the version even if the experiments file names it.")
    ] = False,
    reason: ReasonOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move a version to archive/: it is kept and verified, but no worker can start with it."""
    if not force and experiments.is_file() and version in loaded(experiments)[0].models:
        _stop(f"{version} is in `models` of {experiments}; remove it there first, or use --force", FAILURE)
    with _releasing(registry, reason, by) as release:
        _print_event(release, release.archive(version), as_json=as_json)


def restore(
    version: VersionArgument,
    registry: RegistryOption = Path("models"),
    reason: ReasonOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move a version back from archive/ after verifying it, so that workers can serve it again."""
    from abfleet_models.golden.verification import verify_golden

    with _releasing(registry, reason, by) as release:
        verify_golden(release.registry.archived(version))
        _print_event(release, release.restore(version), as_json=as_json)


def add(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Model file, or folder with model.onnx.")],
    version: Annotated[
        str | None, typer.Option("--version", metavar="NAME", help="Name of the version, unless metadata.json has one.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="Kind of the model: recommender or tensors. Default: by the names of its tensors.",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Rename an input or output of the graph; may be repeated."),
    ] = None,
    cast: Annotated[bool, typer.Option("--cast", help="Cast tensors of a recommender that have other types.")] = False,
    batch: Annotated[bool, typer.Option("--batch/--no-batch", help="Join requests where a check allows it.")] = True,
    max_history: Annotated[
        int, typer.Option("--max-history", min=1, max=10_000, help="Number of history items that a recommender reads.")
    ] = 1000,
    registry: RegistryOption = Path("models"),
    reason: ReasonOption = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Validate a model, measure it and put it into the registry. No alias moves: promote it when you are ready.

    What a graph takes and gives is read from it. Of metadata.json, all but the version may be left out and is then
    computed; items.txt beside the model comes along.
    """
    from abfleet_models.adding.candidate import examine
    from abfleet_models.adding.drafting import AddOptions

    options = AddOptions(
        version=version,
        kind=_kind(kind),
        renames=_renames(rename or []),
        cast=cast,
        batch=batch,
        max_history=max_history,
    )

    with _releasing(registry, reason, by) as release, tempfile.TemporaryDirectory(prefix="abfleet-add-") as scratch:
        candidate = examine(path, Path(scratch), _golden_histories(release.registry), options)
        latency = dict(candidate.latency_us)
        event = release.add(candidate.files, measured={"latency_us": latency})
        more = {"found": list(candidate.found), "latency_us": latency}
        _print_event(release, event, more=more, as_json=as_json)


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to create.")],
    version: Annotated[str, typer.Option("--version", metavar="NAME", help="Name of the version.")] = "v0.1.0",
) -> None:
    """Write an example: a small model with the metadata that a person gives, ready for `abfleet models add`."""
    from abfleet_models.adding.example import write_example
    from abfleet_models.errors import RegistryError

    try:
        write_example(folder, version)
    except RegistryError as error:
        _stop(str(error), FAILURE)
    except OSError as error:
        _stop(f"{error.filename or folder}: {error.strerror or error}", FAILURE)
    typer.echo(
        f"{folder} has model.onnx and metadata.json: replace them by your own, then run abfleet models add {folder}"
    )


def _kind(kind: str | None) -> Any:
    if kind not in (None, "recommender", "tensors"):
        _stop(f"--kind {kind!r} is not a kind; allowed: recommender, tensors", USAGE)
    return kind


def _renames(pairs: list[str]) -> dict[str, str]:
    """Old name to new. An old name may have an equals sign, a new one has none."""
    renames = {}
    for pair in pairs:
        old, _, new = pair.rpartition("=")
        if not old or not new:
            _stop(f"--rename {pair!r} is not OLD=NEW", USAGE)
        renames[old] = new
    return renames


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Version or alias; archived versions included.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Version or alias to compare it with.")],
    registry: RegistryOption = Path("models"),
    as_json: JsonOption = False,
) -> None:
    """Show how two versions differ: metadata, offline metrics, size, latency, and answers to golden histories."""
    from abfleet_models.comparison import compare
    from abfleet_models.errors import RegistryError
    from abfleet_models.registry import Registry

    opened = Registry(_folder(registry))
    try:
        found = compare(_find(opened, a), _find(opened, b))
    except RegistryError as error:
        _stop(str(error), _exit_code(error))
    if as_json:
        typer.echo(json.dumps(_as_json(found), indent=2))
        return
    rows = [[change.field, _cell(change.a), _cell(change.b), ""] for change in found.metadata]
    for metric in found.metrics:
        cells = ["" if value is None else f"{value:.4f}" for value in (metric.a, metric.b)]
        rows.append([metric.metric, *cells, "" if metric.difference is None else f"{metric.difference:+.4f}"])
    for shape in (one for one in found.latency_us[0] if one in found.latency_us[1]):
        times = [one[shape] for one in found.latency_us]
        rows.append([f"latency {shape} (us a request)", *(f"{time:.1f}" for time in times), _ratio(*times)])
    rows += _answer_rows(found)
    print_table(f"{found.a} and {found.b}", ["", found.a, found.b, "difference"], rows)


def _answer_rows(found: "VersionComparison") -> list[list[str]]:
    if found.answers:
        shares = [("same first item", found.same_first), ("same ten in order", found.same_list)]
        rows = [
            [f"answers: {name}", "", "", f"{value:.0%} of {len(found.answers)} histories"] for name, value in shares
        ]
        return [*rows, ["answers: first ten in common", "", "", f"{found.overlap:.0%}"]]
    if found.cases_alike is None:
        return [
            [
                "answers",
                "",
                "",
                "answers cannot be compared: the versions differ in their tensors, or in their kind of items",
            ]
        ]
    return [["equal answers", "", "", "{} of {} golden cases".format(*found.cases_alike)]]


@contextmanager
def _releasing(registry: Path, reason: str | None, by: str | None) -> "Iterator[Release]":
    """Holds the registry's lock for a release; an error becomes one line and an exit code."""
    from abfleet_models.errors import RegistryError
    from abfleet_models.release import Release

    try:
        with Release.begin(_folder(registry), now=datetime.now(UTC), by=by or _login(), reason=reason) as release:
            yield release
    except RegistryError as error:
        _stop(str(error), _exit_code(error))
    except OSError as error:
        _stop(f"{error.filename or registry}: {error.strerror or error}", FAILURE)


def _exit_code(error: Exception) -> int:
    from abfleet_models.errors import UnknownVersionError, UnsafePathError

    return USAGE if isinstance(error, UnknownVersionError | UnsafePathError) else FAILURE


def _login() -> str | None:
    try:
        return getpass.getuser()[:64]
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return None


def _find(registry: "Registry", name: str) -> "ModelVersion":
    return registry.archived(name) if name in registry.archived_versions() else registry.resolve(name)


def _golden_histories(registry: "Registry") -> list[list[int]]:
    """Those of production, so that versions can be compared; plain ones where there is no production."""
    from abfleet_models.errors import RegistryError

    try:
        return registry.resolve("production").manifest.golden_history
    except RegistryError:
        return [list(row) for row in PLAIN_HISTORIES]


def _print_event(
    release: "Release",
    event: "ReleaseEvent | None",
    unchanged: str = "",
    *,
    more: dict[str, Any] | None = None,
    as_json: bool,
) -> None:
    """Prints what was done, and what was finished of an earlier release that was killed."""
    if as_json:
        members = {"event": event and event.to_dict(), "finished": release.finished and release.finished.to_dict()}
        typer.echo(json.dumps({**members, **(more or {})}, indent=2))
        return
    if release.finished is not None:
        typer.echo(f"first finished an interrupted release: {_event_line(release.finished)}")
    typer.echo(unchanged if event is None else _event_line(event))
    for line in (more or {}).get("found", ()):
        typer.echo(line)
    for shape, time in (more or {}).get("latency_us", {}).items():
        typer.echo(f"latency {shape}: {time:.1f} us a request")


def _event_line(event: "ReleaseEvent") -> str:
    """An event as one line for people."""
    if event.alias is not None:
        return f"{event.alias} now points to {event.version}" + (f" (before: {event.was})" if event.was else "")
    return f"{event.version} is {event.event}"


def _as_json(found: "VersionComparison") -> dict[str, Any]:
    shares = {"overlap": found.overlap, "same_first": found.same_first, "same_list": found.same_list}
    metrics = [{**asdict(one), "difference": one.difference} for one in found.metrics]
    answers = [{**asdict(one), "overlap": one.overlap} for one in found.answers]
    return {**asdict(found), "metrics": metrics, "answers": {**shares, "histories": answers}}


def _cell(value: object) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 64 else text[:61] + "..."


def _ratio(a: float, b: float) -> str:
    return f"{b / a - 1:+.0%}" if a else ""


def _folder(registry: Path) -> Path:
    if not registry.is_dir():
        _stop(f"--registry {str(registry)!r} is not a folder", USAGE)
    return registry


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"abfleet: {message}", err=True)
    raise typer.Exit(code)
