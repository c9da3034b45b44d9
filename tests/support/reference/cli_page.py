"""docs/cli.md: every command of `abfleet` with its arguments and options, as its help has them."""

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import abfleet_autopilot.settings
import abfleet_dashboard.settings
import abfleet_router.settings
import abfleet_worker.settings
import typer
from abfleet_process.addresses import variable
from abfleet_process.flags import Flags

from abfleet.cli import app
from abfleet.commands.server_help import help_app

SERVERS: Mapping[str, Callable[[Mapping[str, str]], Flags]] = {
    "router": abfleet_router.settings.declared,
    "worker": abfleet_worker.settings.declared,
    "dashboard": abfleet_dashboard.settings.declared,
    "autopilot": abfleet_autopilot.settings.declared,
}
"""Commands that read their flags themselves."""
HEAD = """\
# Commands

<!-- Made from the code by `./run reference`; do not edit. -->

Every command, as `abfleet COMMAND --help` shows it. In a clone, `./run` stands for `abfleet`, and sets up what it
needs. An option `--a-b` may also be given as the variable `ABFLEET_A_B` unless it says otherwise here; the option wins.
One with \\* may be repeated. `abfleet --version` shows versions, and `abfleet --install-completion` installs completion
for the current shell.
"""
TYPES = {"str": "TEXT", "int": "NUMBER", "float": "NUMBER", "Path": "PATH"}
"""What stands for a value that has no name of its own."""
HIDDEN = ("--help", "--version", "--install-completion", "--show-completion")


def page() -> str:
    """The whole page."""
    root: Any = typer.main.get_command(app)
    groups: dict[str, list[str]] = {}
    for name, command in root.commands.items():
        groups.setdefault(command.rich_help_panel, []).append(name)
    parts = [HEAD]
    for title, names in groups.items():
        parts.append(f"## {title}\n")
        for name in names:
            parts += _sections(f"abfleet {name}", root.commands[name])
    return "\n".join(parts)


def _sections(path: str, command: Any) -> Iterator[str]:
    """The command, or each command of a family."""
    if hasattr(command, "commands"):
        yield f"### {path}\n\n{_prose(command.help)}\n"
        for name, inner in command.commands.items():
            yield from _sections(f"{path} {name}", inner)
        return
    name = path.rpartition(" ")[2]
    if name in SERVERS:
        command = typer.main.get_command(help_app(SERVERS[name]({})))
    texts = [_prose(command.help), _prose(command.epilog)]
    yield "\n\n".join((f"### {path}", _usage(path, command), *filter(None, texts))) + "\n"
    options = [one for one in command.params if one.param_type_name == "option" and one.opts[0] not in HIDDEN]
    by_title: dict[str, list[Any]] = {}
    for parameter in command.params:
        if not parameter.hidden and parameter.opts[0] not in HIDDEN:
            by_title.setdefault(getattr(parameter, "rich_help_panel", None) or "", []).append(parameter)
    for title, parameters in by_title.items():
        heading = f"**{title}**\n\n" if title else ""
        rows = "\n".join(map(_row, parameters))
        yield f"{heading}| option | value | default | what |\n|---|---|---|---|\n{rows}\n"
    without = [f"`{one.opts[0]}`" for one in options if not one.envvar]
    if without:
        yield f"Without a variable: {', '.join(without)}.\n"


def _usage(path: str, command: Any) -> str:
    words = [path, *(_argument(one) for one in command.params if one.param_type_name == "argument")]
    if any(parameter.param_type_name == "option" for parameter in command.params):
        words.append("[OPTIONS]")
    return f"`{' '.join(words)}`"


def _argument(parameter: Any) -> str:
    """Its name in the usage line: in brackets where it may be left out."""
    name = parameter.metavar or parameter.name.upper()
    if name.startswith("["):
        return str(name)
    repeated = f"{name}..." if parameter.nargs == -1 else name
    return repeated if parameter.required else f"[{repeated}]"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{_argument(parameter)}`"
    else:
        name = ", ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))
        name += " \\*" if parameter.multiple else ""
    text = _cell(parameter.help or "")
    if parameter.param_type_name == "option" and parameter.envvar not in (None, variable(parameter.opts[0][2:])):
        text += f" Variable: `{parameter.envvar}`."
    return f"| {name} | {_value(parameter)} | {_default(parameter)} | {text} |"


def _value(parameter: Any) -> str:
    """What may be given, and between which bounds."""
    if parameter.param_type_name == "argument" or parameter.is_flag:
        return ""
    kind = parameter.bare_type()
    word = _cell(f"`{parameter.metavar or TYPES.get(kind, kind.upper())}`")
    low, high = parameter.min, parameter.max
    if low is not None and high is not None:
        return f"{word} {low} to {high}"
    return word if low is None else f"{word} from {low}"


def _default(parameter: Any) -> str:
    """What stands where nobody gives the option; what depends on the machine is said in words."""
    if isinstance(parameter.show_default, str):
        return _cell(parameter.show_default)
    value = parameter.default
    if value in (None, "", [], ()) or value is ... or callable(value):
        return "needed" if parameter.required else ""
    if isinstance(value, bool):
        return "`on`" if value else "`off`"
    if isinstance(value, str) and value.startswith(socket.gethostname()):
        return "(the host's name and the process' id)"
    words = value if isinstance(value, list | tuple) else [value]
    return _cell(", ".join(f"`{os.fspath(word) if isinstance(word, os.PathLike) else word}`" for word in words))


def _prose(text: str | None) -> str:
    """Paragraphs of help; a line that shows a command is shown as one."""
    paragraphs = (" ".join(part.split()) for part in (text or "").replace("\b", "").split("\n\n"))
    return "\n\n".join(re.sub(r"^Example: (.*)$", r"Example: `\1`", part) for part in paragraphs).replace("*", "\\*")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
