"""Commands of `abfleet models`: train, list, verify, sign, and those that release."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from abfleet.commands import model_releases

if TYPE_CHECKING:
    from abfleet_models.registry import ModelVersion, Registry

USAGE, FAILURE = 2, 1
METRIC_COLUMNS = ("recall@10", "ndcg@10", "coverage@10")

RegistryOption = Annotated[
    Path, typer.Option("--registry", envvar="ABFLEET_REGISTRY", help="Folder of the model registry.")
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file", envvar="ABFLEET_MODEL_KEY_FILE", help="Key file; versions must be signed with this key."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@dataclass(frozen=True, slots=True)
class VersionListing:
    """One version as `list` shows it; `error` is set where its metadata cannot be read, and the rest is then empty."""

    version: str
    aliases: list[str]
    archived: bool
    algorithm: str = ""
    metrics: dict[str, float] | None = None
    size_bytes: int = 0
    sha256: str = ""
    trained_on: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """What `verify` found of one version, or of the registry as a whole."""

    version: str
    ok: bool
    message: str


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    models = typer.Typer(
        help="Train, list, verify, compare and release the models of the registry.", no_args_is_help=True
    )
    models.command("train", epilog="Example: abfleet models train --data ml-latest-small --out models")(train)
    models.command("list", epilog="Example: abfleet models list --json")(list_models)
    models.command("verify", epilog="Example: abfleet models verify production")(verify)
    models.command("sign", epilog="Example: abfleet models sign v1.3.0-beta --key-file models.key")(sign)
    model_releases.register(models)
    app.add_typer(models, name="models")


def train(
    data: Annotated[
        Path, typer.Option(metavar="DIR|CSV", help="CSV file of users, items and times, or a folder with one.")
    ],
    out: Annotated[Path, typer.Option(envvar="ABFLEET_REGISTRY", help="Registry to write to.")] = Path("models"),
    seed: Annotated[int, typer.Option(min=0, help="Seed that selects the users of the golden histories.")] = 7,
    min_ratings: Annotated[int, typer.Option(min=1, help="Leave out items with fewer ratings.")] = 10,
    user_column: Annotated[str, typer.Option(metavar="NAME", help="Column of the user.")] = "userId",
    item_column: Annotated[
        str,
        typer.Option(metavar="NAME", help="Column of the item, a number or any text. Default: movieId, with numbers."),
    ] = "",
    time_column: Annotated[
        str, typer.Option(metavar="NAME", help="Column of the time: seconds since 1970, or ISO 8601.")
    ] = "timestamp",
    version_prefix: Annotated[
        str, typer.Option(metavar="TEXT", help="Prefix of the versions' names: shop- gives shop-v1.2.3.")
    ] = "",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Train only this version or algorithm, such as ease; may be repeated."),
    ] = None,
) -> None:
    """Train versions on a file of ratings, views or orders, measure them offline and put them into the registry.

    Where an item's id is no number, items have names: items.txt comes with each version, and callers give and get
    names. The same data and seed give the same files. A version that exists is rebuilt in place; an alias that
    exists is not moved.
    """
    from abfleet_models.errors import RegistryError
    from abfleet_models.manifest import NAME_RULE, is_name

    try:
        from abfleet_models.train.build import build
        from abfleet_models.train.dataset import TrainingColumns, TrainingDataError
        from abfleet_models.train.recipes import chosen
    except ImportError as error:
        _stop(f"training needs {error.name}; run pip install 'abfleet[train]', or in a clone ./run setup", USAGE)
    from rich.console import Console
    from rich.progress import track

    try:
        recipes = chosen(only or ())
    except ValueError as error:
        _stop(f"--only: {error}", USAGE)
    if not is_name(f"{version_prefix}v1"):
        _stop(f"--version-prefix: {version_prefix[:64]!r} is not allowed; a version is {NAME_RULE}", USAGE)
    steps = build(
        data,
        out,
        seed=seed,
        now=datetime.now(UTC),
        min_ratings=min_ratings,
        columns=TrainingColumns(user=user_column, item=item_column, time=time_column),
        version_prefix=version_prefix,
        only=recipes,
    )
    progress = Console(stderr=True)
    try:
        built = list(
            track(
                steps,
                "Training",
                total=len(recipes),
                console=progress,
                disable=not progress.is_terminal,
                transient=True,
            )
        )
    except TrainingDataError as error:
        _stop(str(error), USAGE)
    except (RegistryError, OSError) as error:
        _stop(str(error), FAILURE)
    rows = [
        [one.version, one.algorithm, one.outcome, *_shown(dict(one.metrics)), f"{one.size_bytes / 1e6:.1f} MB"]
        for one in built
    ]
    _table(f"Trained into {out}", ["version", "algorithm", "outcome", *METRIC_COLUMNS, "size"], rows)
    if any(one.named for one in built):
        typer.echo("items have names: calls use `items` with names, not `item_ids` with numbers")


def list_models(registry: RegistryOption = Path("models"), as_json: JsonOption = False) -> None:
    """Show the versions of the registry, their aliases and their offline metrics."""
    from abfleet_models.registry import Registry, RegistryError

    opened = Registry(_folder(registry))
    try:
        rows = list(_rows(opened))
    except RegistryError as error:
        _stop(str(error), FAILURE)
    if as_json:
        typer.echo(json.dumps({"registry": str(registry), "models": [asdict(row) for row in rows]}, indent=2))
    else:
        cells = [
            [
                row.version,
                "archived" if row.archived else ", ".join(row.aliases),
                row.error or row.algorithm,
                *_shown(row.metrics or {}),
                f"{row.size_bytes / 1e6:.1f} MB" if row.size_bytes else "",
                row.sha256[:12],
            ]
            for row in rows
        ]
        _table(f"Models in {registry}", ["version", "alias", "algorithm", *METRIC_COLUMNS, "size", "sha256"], cells)
    if any(row.error for row in rows):
        raise typer.Exit(FAILURE)


def verify(
    version: Annotated[str | None, typer.Argument(help="Version or alias. Default: all versions.")] = None,
    registry: RegistryOption = Path("models"),
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check SHA-256, signature and golden answers of one version, or of all versions and the registry.

    The exit code is 1 if anything differs from its release.
    """
    from abfleet_models.registry import Registry, RegistryError

    opened = Registry(_folder(registry))
    try:
        key = _key(key_file)
        verdicts = [_verdict(*_find(opened, version), key)] if version is not None else list(_verdicts(opened, key))
    except RegistryError as error:
        _stop(str(error), USAGE)
    if as_json:
        typer.echo(json.dumps({"registry": str(registry), "results": [asdict(one) for one in verdicts]}, indent=2))
    else:
        cells = [[one.version, "ok" if one.ok else "WRONG", one.message] for one in verdicts]
        _table(f"Verified {registry}", ["version", "result", "result"], cells)
    if not all(one.ok for one in verdicts):
        raise typer.Exit(FAILURE)


def sign(
    version: Annotated[str, typer.Argument(help="Version or alias.")],
    key_file: Annotated[
        Path, typer.Option("--key-file", envvar="ABFLEET_MODEL_KEY_FILE", help="Key file, shared with the workers.")
    ],
    registry: RegistryOption = Path("models"),
) -> None:
    """Sign a version, so that workers with --model-key-file serve it."""
    from abfleet_models import signing
    from abfleet_models.registry import Registry, RegistryError

    try:
        found = Registry(_folder(registry)).resolve(version)
        signing.sign(found, signing.read_key(key_file))
    except (RegistryError, OSError) as error:
        _stop(str(error), FAILURE)
    typer.echo(f"{found.version} is signed: {found.path / signing.SIGNATURE_FILE}")


Opener = Callable[[str], "ModelVersion"]


def _all(registry: "Registry") -> list[tuple[str, Opener]]:
    """Every version with what opens it, the archived ones last."""
    served: list[tuple[str, Opener]] = [(name, registry.resolve) for name in registry.versions()]
    return served + [(name, registry.archived) for name in registry.archived_versions()]


def _find(registry: "Registry", name: str) -> tuple[str, Opener]:
    """A version or alias with what opens it. Raises RegistryError when nothing has that name."""
    from abfleet_models.manifest import is_name
    from abfleet_models.registry import RegistryError, UnknownVersionError

    opener: Opener = registry.archived if name in registry.archived_versions() else registry.resolve
    try:
        return opener(name).version, opener
    except RegistryError as error:
        if isinstance(error, UnknownVersionError) or not is_name(name):
            raise
        return name, opener  # it is there and broken: a failure of the version, not a wrong question


def _rows(registry: "Registry") -> Iterator[VersionListing]:
    from abfleet_models.registry import RegistryError

    aliases = registry.aliases()
    for name, opener in _all(registry):
        leading = sorted(alias for alias, target in aliases.items() if target == name)
        archived = opener == registry.archived
        try:
            found = opener(name)
            metrics = found.metrics()
        except RegistryError as error:
            yield VersionListing(name, leading, archived, error=str(error))
            continue
        manifest = found.manifest
        yield VersionListing(
            version=name,
            aliases=leading if not archived else [],
            archived=archived,
            algorithm=manifest.algorithm,
            metrics=dict(metrics.values) if metrics else None,
            size_bytes=manifest.size_bytes,
            sha256=manifest.sha256,
            trained_on=manifest.training.name,
        )


def _key(key_file: Path | None) -> bytes | None:
    """Raises RegistryError where the file has none."""
    from abfleet_models import signing

    return None if key_file is None else signing.read_key(key_file)


def _verdicts(registry: "Registry", key: bytes | None) -> Iterator[VerificationResult]:
    for name, opener in _all(registry):
        yield _verdict(name, opener, key)
    problems = registry.check()
    for problem in problems:
        yield VerificationResult("registry", ok=False, message=problem)
    if not problems:
        yield VerificationResult("registry", ok=True, message="aliases and registry.json match the folders")


def _verdict(name: str, opener: Opener, key: bytes | None) -> VerificationResult:
    from abfleet_models import signing
    from abfleet_models.golden.verification import verify_golden
    from abfleet_models.registry import RegistryError

    try:
        found = opener(name)
        if key is not None:
            signing.check(found, key)
        verify_golden(found)
        found.metrics()
    except RegistryError as error:
        return VerificationResult(name, ok=False, message=str(error))
    questions = len(found.manifest.golden)
    signed = "signed, " if key is not None else ""
    return VerificationResult(name, ok=True, message=f"{signed}sha256, signature and {questions} golden answers")


def _shown(metrics: dict[str, float]) -> list[str]:
    return [f"{metrics[name]:.4f}" if name in metrics else "" for name in METRIC_COLUMNS]


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on a terminal; the same cells separated by tabs in a pipe, where no column may be cut to fit."""
    from rich.markup import escape
    from rich.table import Table

    from abfleet.commands.fitting import fitted
    from abfleet.commands.tables import terminal

    console = terminal()
    if not console.is_terminal:
        for row in rows:
            typer.echo("\t".join(row))
        return
    table = Table(title=escape(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(fitted(table))


def _folder(registry: Path) -> Path:
    if not registry.is_dir():
        _stop(f"--registry {str(registry)!r} is not a folder", USAGE)
    return registry


def _stop(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"abfleet: {message}\n")
    raise typer.Exit(code)
