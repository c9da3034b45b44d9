"""The router's process, from arguments to an exit code: signals, errors and the drain. What serves is in serving.py."""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import structlog
import uvloop
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_log.user_id_hash import KeyFileError
from abfleet_process.errors import TransportError
from abfleet_process.flags import EXIT_USAGE, SettingsError
from abfleet_process.operational_log import OperationalLog, configure_logs
from abfleet_process.process import StopSignals
from abfleet_process.standard_output import ReaderGone
from abfleet_process.watched_credentials import CredentialError

from abfleet_router.serving import Serving
from abfleet_router.settings import RouterSettings, check_log_dir, parse

EXIT_FAILURE = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a router until a signal; gives the exit code: 0 drained, 1 failed, 2 wrong settings or configuration."""
    try:
        settings = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
        check_log_dir(settings)
    except SettingsError as error:
        print(f"abfleet router: {error}; --help lists the settings", file=sys.stderr)
        return EXIT_USAGE
    operations = configure_logs(settings.log_level, settings.log_format)
    try:
        return uvloop.run(serve(settings, operations))
    except ConfigErrors as error:
        print("\n".join(str(one) for one in error.errors), file=sys.stderr)
        return EXIT_USAGE
    except (KeyFileError, CredentialError) as error:
        print(f"abfleet router: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (TransportError, OSError) as error:
        print(f"abfleet router: {error}", file=sys.stderr)
        return EXIT_FAILURE
    finally:
        operations.close()


async def serve(settings: RouterSettings, operations: OperationalLog) -> int:
    """Serves until the first SIGTERM or SIGINT, then drains; a second one ends it at once.

    Raises ConfigErrors, TransportError or OSError when it cannot begin.
    """
    log = structlog.get_logger("abfleet.router")
    # Standard output belongs to the decision log when that goes there.
    out = sys.stderr if settings.log.sink == "stdout" else sys.stdout
    code = 0
    signals = StopSignals()
    operations.follow_signals()
    async with Serving(settings, operations) as serving:
        ready = asyncio.ensure_future(serving.ready())
        stop = asyncio.ensure_future(signals.first.wait())
        await asyncio.wait((ready, stop), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()  # raises what kept it from becoming ready
            line = f"ready {serving.address} admin {serving.admin_address} metrics {serving.metrics_address}"
            print(line, file=out, flush=True)
            await stop
        ready.cancel()
        log.info("draining", delay_seconds=settings.drain_delay_seconds, timeout_seconds=settings.drain_timeout_seconds)
        if not await signals.drain(serving.drain):
            log.warning(
                "a second signal ended the drain; running calls may have been cut off",
                in_progress=serving.parts.server.in_progress,
            )
            code = EXIT_FAILURE
    if code == 0:
        log.info("stopped")
    with suppress(OSError, ReaderGone):
        print(f"served {serving.totals()}", file=out, flush=True)
    return code
