"""The details of a conclusion as JSON values: each field of details.py under its name. Computes nothing."""

import math
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta

import numpy as np
from abfleet_experiments.config import time_text

from abfleet_analysis.report.details import Details


def details_document(details: Details) -> dict[str, object]:
    """The document. Instants are text, durations seconds (`width_s`), numbers that are not known None."""
    return _object(details)


def _object(value: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in fields(value):  # type: ignore[arg-type]  # asked of dataclasses alone
        member = getattr(value, field.name)
        found[field.name + ("_s" if isinstance(member, timedelta) else "")] = _json(member)
    return found


def _json(value: object) -> object:
    if is_dataclass(value):
        return _object(value)
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, np.ndarray):
        return _json(value.tolist())
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
