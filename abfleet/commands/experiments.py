"""Commands about the experiments file: check it, compare it, and say who gets what."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from abfleet_process import standard_output

from abfleet.commands import experiment_edits
from abfleet.commands.experiment_file import (
    DEFAULT_EXPERIMENTS,
    EXIT_MOVES,
    EXIT_USAGE,
    At,
    Attributes,
    Experiments,
    Fleet,
    Json,
    attribute_map,
    instant,
    loaded,
    refuse,
    show_plan,
)
from abfleet.commands.tables import say, say_json

_CHUNK_BYTES = 1 << 18


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    for command in (validate, plan, explain, assign):
        app.command()(command)
    experiment_edits.register(app)


def validate(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Experiments files.")] = None,
    *,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    fleet: Fleet = None,
    strict: Annotated[
        bool, typer.Option("--strict", envvar="ABFLEET_STRICT", help="Treat warnings as errors.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check experiments files: every mistake at once, with file, line, column and key. Exit code 2 if there are any.

    Example: abfleet validate experiments/recommender.yaml
    """
    from abfleet_experiments.advice import advice
    from abfleet_experiments.file.errors import ConfigErrors
    from abfleet_experiments.file.load import load

    reports: list[dict[str, object]] = []
    for file in files or [experiments]:
        try:
            config = load(file, fleet)
        except ConfigErrors as error:
            found = [
                {"file": e.file, "line": e.line, "column": e.column, "key": e.key_path, "message": e.message}
                for e in error.errors
            ]
            reports.append({"file": str(file), "ok": False, "errors": found, "advice": []})
            if not as_json:
                typer.echo(str(error), err=True)
            continue
        remarks = advice(config)
        found = [{"key": remark.key_path, "message": remark.message} for remark in remarks]
        ok = not (strict and remarks)
        reports.append({"file": str(file), "ok": ok, "revision": config.revision, "errors": [], "advice": found})
        if not as_json:
            for remark in remarks:
                typer.echo(f"{file}: warning: {remark}", err=True)
            count = len(config.experiments)
            typer.echo(
                f"{file}: {'ok' if ok else 'refused'}, revision {config.revision}, "
                f"{count} experiment{'' if count == 1 else 's'}"
            )
    if as_json:
        say_json(reports, indent=2)
    if not all(report["ok"] for report in reports):
        raise typer.Exit(EXIT_USAGE)


def plan(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Experiments file before the edit.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Experiments file after the edit.")],
    *,
    at: At = None,
    users: Annotated[
        Path | None,
        typer.Option(
            "--users",
            envvar="ABFLEET_USERS",
            metavar="FILE",
            help="File with user ids, one per line; count these users.",
        ),
    ] = None,
    attributes: Attributes = None,
    as_json: Json = False,
    fail_on_moves: Annotated[
        bool,
        typer.Option("--fail-on-moves", envvar="ABFLEET_FAIL_ON_MOVES", help="Exit with code 3 if any user moves now."),
    ] = False,
) -> None:
    """Show how many users an edit would move, and between which groups.

    Without --users, the shares are exact for all users who match every audience, from their buckets.

    Example: abfleet plan old.yaml experiments/recommender.yaml --fail-on-moves
    """
    from abfleet_experiments.assign import Assigner
    from abfleet_experiments.movement import movement_of
    from abfleet_experiments.plan import plan as planned

    before, after = loaded(old, new)
    time, sent = instant(at), attribute_map(attributes)
    if users is None:
        if sent:
            refuse("--attributes: needs --users, a file of the users who have these attributes")
        result, counted = planned(before, after, time), None
    else:
        ids = _user_ids(users)
        moving = movement_of(ids, Assigner(before, time), Assigner(after, time), sent)
        result, counted = planned(before, after, time, now=moving), len(ids)
    show_plan(result, as_json=as_json, users=counted)
    if fail_on_moves and result.now.moved:
        raise typer.Exit(EXIT_MOVES)


def explain(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user id.")],
    *,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    at: At = None,
    attributes: Attributes = None,
    as_json: Json = False,
) -> None:
    """Explain why a user gets their version: each decision with its hash and bucket.

    Example: abfleet explain user-1 --attributes country=DE
    """
    from abfleet_experiments.bucketing import user_id_problem
    from abfleet_experiments.explain import explain as explained

    (config,) = loaded(experiments)
    if user and (problem := user_id_problem(user)) is not None:
        refuse(f"USER: `{user[:64]}` {problem}")
    result = explained(config, instant(at), user, attribute_map(attributes))
    arm = result.arm
    if as_json:
        steps = [
            {"about": s.about, "text": s.text, "salt": s.salt, "hash": s.hash, "bucket": s.bucket} for s in result.steps
        ]
        answer = {
            "user_id": user,
            "experiment": arm.experiment,
            "group": arm.group,
            "bucket": result.bucket,
            "model_version": arm.model_version or None,
            **({} if arm.interleave is None else {"versions": list(arm.interleave)}),
            "reason": arm.reason,
            "layer": arm.layer,
            "allocation": arm.allocation,
            "propensity": arm.propensity,
            "config_revision": config.revision,
            "steps": steps,
        }
        say_json(answer, indent=2)
        return
    for step in result.steps:
        say(f"{step.about:<10}  {step.text}")
        if step.salt is not None:
            say(f"{'':<10}  hash of `{step.salt}:{user}` is {step.hash}, bucket {step.bucket}")
    where = f"{arm.experiment}, group {arm.group}, " if arm.experiment else "no experiment, "
    served = f"version {arm.model_version}"
    if arm.interleave is not None:
        served = f"versions {' and '.join(arm.interleave)} together"
    say(f"{'answer':<10}  {where}{served} ({arm.reason}), revision {config.revision}")


def assign(
    *,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    at: At = None,
    attributes: Attributes = None,
) -> None:
    """Read user ids from standard input, one per line, and print their assignment as CSV (RFC 4180).

    Columns: user_id,experiment,group,bucket,model_version,reason. An id that the router would refuse gets the reason
    invalid_user_id; an empty line is a call without a user id.

    Example: seq 1000 | abfleet assign --attributes country=DE
    """
    from abfleet_experiments.assign import Assigner
    from abfleet_experiments.bulk import HEADER, BulkAssigner, lines

    (config,) = loaded(experiments)
    bulk = BulkAssigner(Assigner(config, instant(at)), attribute_map(attributes))
    source, sink = sys.stdin.buffer, standard_output.binary()
    with standard_output.quiet_end():
        sink.write(HEADER.encode())
        for user_ids in lines(iter(lambda: source.read(_CHUNK_BYTES), b"")):
            sink.write(bulk.rows(user_ids).encode(errors="surrogateescape"))
        sink.flush()
    if bulk.invalid:
        typer.echo(
            f"invalid user ids: {bulk.invalid:,}; allowed: 1 to 256 bytes of UTF-8 without control characters", err=True
        )


def _user_ids(file: Path) -> list[str]:
    """The valid user ids in a file; any other is a usage mistake."""
    from abfleet_experiments.bucketing import user_id_problem
    from abfleet_experiments.bulk import lines

    try:
        with file.open("rb") as source:
            ids = [user for chunk in lines(iter(lambda: source.read(_CHUNK_BYTES), b"")) for user in chunk]
    except OSError as error:
        refuse(f"--users: {file} cannot be read: {error.strerror}")
    for number, user in enumerate(ids, start=1):
        if (problem := user_id_problem(user)) is not None:
            refuse(f"{file}:{number}:1: the user id {problem}")
    if not ids:
        refuse(f"--users: {file} has no user ids; it needs at least one")
    return ids
