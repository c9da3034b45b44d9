"""The help of the servers' commands, which read their flags themselves, in the form of the other commands' help."""

import inspect
from typing import Annotated, Any, NoReturn

import typer
from abfleet_process.addresses import program, variable
from abfleet_process.flags import DeclaredFlag, Flags


def show_help(name: str, flags: Flags) -> NoReturn:
    """Prints the help of `abfleet NAME`, and ends the command."""
    help_app(flags)(["--help"], prog_name=f"{program()} {name}")
    raise typer.Exit


def help_app(flags: Flags) -> typer.Typer:
    """A command that has these flags and does nothing but show help."""

    def command(**values: Any) -> None: ...

    parameters = [_parameter(flag) for flag in flags.declared]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=flags.description, epilog=f"Example: {flags.example}")(command)
    return app


def _parameter(flag: DeclaredFlag) -> inspect.Parameter:
    names = [f"--{flag.name}" if flag.metavar else f"--{flag.name}/--no-{flag.name}"]
    word = flag.text.partition(" ")[0].rstrip(":")
    text = f"{flag.text}." if word in flag.metavar.split("|") else f"{flag.text[:1].upper()}{flag.text[1:]}."
    option: Any = typer.Option(
        *names,
        metavar=flag.metavar or None,
        help=text,
        envvar=variable(flag.name),
        rich_help_panel=flag.group,
        show_default=bool(flag.metavar and flag.default),
    )
    kind = str if flag.metavar else bool
    default: str | bool = flag.default if flag.metavar else False
    return inspect.Parameter(
        flag.name.replace("-", "_"),
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )
