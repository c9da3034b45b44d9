"""The composition root: makes a running autopilot of its settings, and ends it."""

import gc
import signal
import sys
import threading
import time
from collections.abc import Sequence

import structlog
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_process.errors import AddressError
from abfleet_process.flags import EXIT_USAGE, SettingsError
from abfleet_process.notify.receivers import NotifyError, chosen
from abfleet_process.operational_log import OperationalLog, configure_logs
from abfleet_process.process import MetricsServer
from prometheus_client import CollectorRegistry, ProcessCollector

from abfleet_autopilot.metrics import AutopilotMetrics
from abfleet_autopilot.notifying import ActNotifier
from abfleet_autopilot.pilot import Pilot
from abfleet_autopilot.settings import STATE_NAME, AutopilotSettings, parse

EXIT_FAILURE = 1
PAUSE_SECONDS = 1.0
"""After a round that failed in a way that nobody foresaw: the next one may not."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs an autopilot until a signal; gives the exit code: 0 stopped as asked, 1 failed, 2 wrong settings or file."""
    try:
        settings = parse(sys.argv[1:] if arguments is None else arguments)
    except SettingsError as error:
        print(f"abfleet autopilot: {error}; --help lists the settings", file=sys.stderr)
        return EXIT_USAGE
    operations = configure_logs(settings.log_level, settings.log_format)
    try:
        return serve(settings, operations)
    except (ConfigErrors, NotifyError) as error:
        print(f"abfleet autopilot: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (AddressError, OSError) as error:
        print(f"abfleet autopilot: {error}", file=sys.stderr)
        return EXIT_FAILURE
    finally:
        operations.close()


def serve(settings: AutopilotSettings, operations: OperationalLog) -> int:
    """Follows until the first SIGTERM or SIGINT; an act under way is ended first.

    Raises ConfigErrors, NotifyError and OSError.
    """
    operations.bind(process="autopilot")
    gc.set_threshold(100_000, 50, 100)  # lines are many and in no circles: to look for these took an eighth of a replay
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    notifier = _notifier(settings)

    def say(words: str) -> None:
        _say(words)
        if notifier is not None:
            notifier.wake()

    pilot = Pilot(settings, time.time, say=say, stopping=stop.is_set)
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(AutopilotMetrics(pilot, notifier))
    metrics = MetricsServer(settings.metrics_host, settings.metrics_port, registry)
    try:
        if settings.once:
            pilot.once()
            pending = 0 if notifier is None else notifier.deliver()
            if pending:
                print(f"undelivered notifications: {pending}; the next run sends them", file=sys.stderr)
            return EXIT_FAILURE if pending else 0
        metrics.start()
        if notifier is not None:
            notifier.start()
        pilot.begin()
        where = "off" if metrics.port is None else f"{settings.metrics_host}:{metrics.port}"
        _say(f"ready autopilot metrics {where}")
        _keep(pilot, settings.every_seconds, stop)
    finally:
        if notifier is not None:
            notifier.close()
        metrics.close()
        pilot.close()
    structlog.get_logger("abfleet.autopilot").info("stopped")
    return 0


def _notifier(settings: AutopilotSettings) -> ActNotifier | None:
    """None where nobody is to be notified. Raises NotifyError."""
    receivers = chosen(settings.notify_url, settings.notify_command, settings.notify_secret_file)
    if not receivers or settings.dry_run:
        return None
    notifier = ActNotifier(settings.actions, settings.notify_state or settings.actions / STATE_NAME, receivers)
    notifier.open()  # before anything is done: what was done until now is not told
    return notifier


def _keep(pilot: Pilot, every_seconds: float, stop: threading.Event) -> None:
    while not stop.wait(every_seconds):
        try:
            pilot.round()
        except Exception:  # noqa: BLE001 - a fault of ours must not end what keeps users from harm
            structlog.get_logger("abfleet.autopilot").exception("a round failed; the next one is made")
            pilot.failures += 1
            stop.wait(PAUSE_SECONDS)


def _say(words: str) -> None:
    print(words, flush=True)
