"""`abfleet up` from its settings to its exit code. Knows what is checked before anything starts, and the signals."""

import asyncio
import signal
import time
from pathlib import Path

from abfleet_experiments.file.errors import ConfigErrors
from abfleet_experiments.file.load import load
from abfleet_process.process import StopSignals
from abfleet_process.writable_folder import folder_problem
from abfleet_router import settings as router_settings
from abfleet_transport.transports import choose

from abfleet.up.console import UpConsole
from abfleet.up.local_fleet import LocalFleet
from abfleet.up.run_dir import RunDir
from abfleet.up.settings import EXIT_USAGE, CannotStart, UpSettings


def run(settings: UpSettings, console: UpConsole) -> int:
    """Runs the fleet until a signal; gives the exit code: 0 stopped as asked, 1 failed, 2 wrong settings or files."""
    try:
        return asyncio.run(_run(settings, console))
    except CannotStart as error:
        console.print_errors(error.lines)
        return error.code


async def _run(settings: UpSettings, console: UpConsole) -> int:
    settings = settings.shifted()
    signals = StopSignals()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, signals.first.set)  # the terminal was closed
    router = router_settings.parse(settings.router_command(Path("fleet.yaml")))
    choose(router.transport)
    router_settings.check_log_dir(router)
    if (problem := folder_problem(settings.run_dir)) is not None:
        raise CannotStart([f"--run-dir (ABFLEET_RUN_DIR): {str(settings.run_dir)!r} {problem}"], EXIT_USAGE)
    try:
        config = load(settings.experiments, settings.fleet)
    except ConfigErrors as error:
        raise CannotStart((str(one) for one in error.errors), EXIT_USAGE) from error
    if unknown := sorted(dict(settings.replicas or ()).keys() - config.models.keys()):
        known = ", ".join(config.models)
        raise CannotStart([f"--replicas: {unknown[0][:64]!r} is not a version of the file; allowed: {known}"], 2)
    for version, model in config.models.items():
        if model.oip is not None and version in dict(settings.replicas or ()):
            raise CannotStart(
                [
                    (
                        f"--replicas: {version!r} has `protocol: oip`, so abfleet up does not start its servers; "
                        "leave it out"
                    )
                ],
                2,
            )
    with RunDir.open(settings.run_dir) as run_dir:
        fleet = LocalFleet(settings, router, config, run_dir.path, console)
        endpoints = fleet.check()
        run_dir.keep_logs = True
        started = time.monotonic()
        try:
            await fleet.start(endpoints, signals.first)
            if not signals.first.is_set():
                await fleet.keep(signals.first)
            run_dir.keep_logs = False
        finally:
            console.note("stopping: the router drains, then the workers stop; press Ctrl-C again to stop them at once")
            began = time.monotonic()
            clean = await fleet.stop(signals.second)
            console.note(
                f"stopped in {time.monotonic() - began:.1f} s" + ("" if clean else "; some processes were killed")
            )
            if run_dir.keep_logs:
                console.note(f"the logs of the processes are in {run_dir.path}")
            for line in fleet.summary(began - started):
                console.note(line)
    return 0
