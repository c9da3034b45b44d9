"""Reads the experiments file and the fleet file from disk. The only module of this room's core that does IO."""

from pathlib import Path

from abfleet_experiments.config import Config
from abfleet_experiments.file.document import MAX_BYTES
from abfleet_experiments.file.errors import ConfigError, ConfigErrors
from abfleet_experiments.file.read import read


def load(experiments: Path, fleet: Path | None = None) -> Config:
    """The configuration in a file, with the targets of a fleet file over its own.

    Raises ConfigErrors with every mistake of both files, an unreadable file included.
    """
    texts: list[str] = []
    errors: list[ConfigError] = []
    for path in (experiments, fleet) if fleet else (experiments,):
        try:
            texts.append(_text(path))
        except ConfigErrors as error:
            errors += error.errors
    if errors:
        raise ConfigErrors(errors)
    fleet_text = texts[1] if fleet else None
    return load_text(texts[0], name=str(experiments), fleet_text=fleet_text, fleet_name=str(fleet))


def load_text(text: str, *, name: str = "<text>", fleet_text: str | None = None, fleet_name: str = "<fleet>") -> Config:
    """The configuration in a text; `name` and `fleet_name` stand in errors. Raises ConfigErrors with every mistake."""
    return read(text, name, fleet_text, fleet_name)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            message = f"is larger than {MAX_BYTES // 1024 // 1024} MiB"
            raise ConfigErrors([ConfigError(str(path), 1, 1, "", message)])
        return data.decode()
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise ConfigErrors([ConfigError(str(path), 1, 1, "", message)]) from error
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
        message = f"is not UTF-8: byte 0x{data[error.start]:02x}"
        raise ConfigErrors([ConfigError(str(path), line, column, "", message)]) from error
