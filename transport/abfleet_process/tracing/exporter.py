"""Whether a process traces, and where its spans go. Knows the settings; loads what tracing needs only when asked."""

import importlib.util
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from abfleet_process.errors import TransportUnavailable
from abfleet_process.tracing.spans import Attribute, Resource, Span

if TYPE_CHECKING:
    from prometheus_client.core import Metric

ENDPOINT_HELP = "URL of the OTLP receiver to send traces to, for example http://127.0.0.1:4318"


class Exporter(Protocol):
    """Takes finished spans and sends them to a receiver; SpanExporter is the one that does."""

    def start(self) -> None: ...

    def export(self, span: Span) -> None: ...

    def close(self) -> None: ...

    def families(self) -> "Iterable[Metric]": ...


def endpoint_or_none(value: str) -> str:
    """Reads `--otlp-endpoint`: a URL, or nothing. Raises ValueError with what is allowed."""
    if not value:
        return value
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no port number
        good = False
    if not good or parts.query or parts.fragment or parts.username:
        raise ValueError("allowed: http://HOST:PORT and https://HOST:PORT, with or without a path")
    return value


def make_exporter(endpoint: str, service: str, more: Mapping[str, Attribute]) -> Exporter | None:
    """An exporter that is not started yet; None where no endpoint is set. Raises TransportUnavailable.

    What it needs is imported here, so that a process that does not trace neither loads it nor needs it installed.
    """
    if not endpoint:
        return None
    if importlib.util.find_spec("opentelemetry") is None or importlib.util.find_spec("opentelemetry.proto") is None:
        raise TransportUnavailable(
            "--otlp-endpoint needs the package opentelemetry-proto, which is not installed; run pip install "
            "'abfleet[tracing]'"
        )
    from abfleet_process.tracing.span_exporter import SpanExporter

    return SpanExporter(endpoint, Resource({"service.name": service, **more}))
