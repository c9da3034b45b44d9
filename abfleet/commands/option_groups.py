"""Options that belong together, declared once as the fields of a frozen dataclass. Knows none of them."""

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

from abfleet_process.addresses import variable
from typer.models import OptionInfo


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with one option for each field of those of its parameters that are dataclasses.

    A field is an option if it is `Annotated` with one, under its own name and default; the others keep their default.
    Every option has its variable.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, type] = {
        name: one.annotation
        for name, one in signature.parameters.items()
        if isinstance(one.annotation, type) and is_dataclass(one.annotation)
    }
    options = {name: _options(group) for name, group in groups.items()}

    def flat(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{option.name: values.pop(option.name) for option in options[name]})
        command(**values)

    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        parameters += options.get(name) or [_option(name, parameter.annotation, parameter.default)]
    flat.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    flat.__name__, flat.__doc__ = command.__name__, command.__doc__
    return flat


def _options(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        _option(field.name, hints[field.name], inspect.Parameter.empty if field.default is MISSING else field.default)
        for field in fields(group)
        if hasattr(hints[field.name], "__metadata__")
    ]


def _option(name: str, hint: Any, default: Any) -> inspect.Parameter:
    """The parameter, with the variable `ABFLEET_A_B` for an option `--a-b` that names none."""
    if hasattr(hint, "__metadata__") and isinstance(hint.__metadata__[0], OptionInfo):
        option = copy(hint.__metadata__[0])
        # Where an option is given names, the first of them stands in the place of a default.
        flag = name if option.default is ... else str(option.default).lstrip("-").partition("/")[0]
        option.envvar = option.envvar or variable(flag.replace("_", "-"))
        hint = Annotated[hint.__origin__, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
