"""The composition root: makes a serving dashboard of its settings, and ends it."""

import asyncio
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import structlog
import uvicorn
import uvloop
from abfleet_client import ClientCredentials
from abfleet_process.errors import AddressError, TransportError
from abfleet_process.flags import EXIT_USAGE, SettingsError
from abfleet_process.operational_log import configure_logs
from abfleet_process.process import StopSignals
from abfleet_process.security.tokens import TokenFile
from abfleet_process.watched_credentials import CredentialError
from abfleet_transport.client.router_admin import RouterAdmin

from abfleet_dashboard.analyst import AnalysisProcess
from abfleet_dashboard.autopilot_state import AutopilotWatch
from abfleet_dashboard.fleet_state import FleetWatch
from abfleet_dashboard.reports import ReportKeeper
from abfleet_dashboard.server import AccessRules, RequestGuard, Site
from abfleet_dashboard.settings import DashboardSettings, parse
from abfleet_dashboard.shadow_reports import ShadowKeeper
from abfleet_dashboard.situation import ShadowAnswers, Situation
from abfleet_dashboard.views.commands_view import Files
from abfleet_dashboard.visits import Visits

EXIT_FAILURE = 1
CLOSE_SECONDS = 1
"""For answers under way; a browser asks again."""
MOST_CONNECTIONS = 256
KEEP_ALIVE_SECONDS = 15
LONG_ANALYSIS_SECONDS = 3.0
"""One that takes no longer than this is not worth a word on the page."""
STALE_SECONDS = 90.0
SCOPE = "dashboard"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a dashboard until a signal; gives the exit code: 0 stopped as asked, 1 failed, 2 wrong settings."""
    try:
        settings = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
    except SettingsError as error:
        print(f"abfleet dashboard: {error}; --help lists the settings", file=sys.stderr)
        return EXIT_USAGE
    configure_logs(settings.log_level, settings.log_format)
    try:
        return uvloop.run(serve(settings))
    except CredentialError as error:
        print(f"abfleet dashboard: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (TransportError, OSError) as error:
        print(f"abfleet dashboard: {error}", file=sys.stderr)
        return EXIT_FAILURE


async def serve(settings: DashboardSettings) -> int:
    """Serves until the first signal. Raises TransportError or OSError when it cannot begin."""
    signals = StopSignals()
    visits = Visits()
    tokens = TokenFile(settings.tokens) if settings.tokens else None
    with bound(settings.host, settings.port) as listening:
        async with AnalysisProcess() as analyst:
            reports = ReportKeeper(settings, analyst, visits)
            routers = [
                RouterAdmin(address, ClientCredentials(token_file=settings.token_file))
                for address in settings.router_admins
            ]
            fleet = FleetWatch(routers, settings.refresh_seconds, visits)
            autopilot = AutopilotWatch(settings.actions, settings.refresh_seconds, visits)
            shadow_visits = Visits()
            shadow = ShadowKeeper(settings, analyst, shadow_visits)
            site = Site(LiveContent(settings, reports, fleet, autopilot, shadow, visits, shadow_visits))
            rules = AccessRules(
                hosts=("localhost", *settings.allowed_hosts),
                may_see=None if tokens is None else lambda token: _may_see(tokens, token),
            )
            server = EmbeddedServer(RequestGuard(site.router, rules))
            keeping = [
                asyncio.create_task(reports.keep(), name="reports"),
                asyncio.create_task(autopilot.keep(), name="autopilot"),
                asyncio.create_task(shadow.keep(), name="shadow"),
            ]
            if routers:
                keeping.append(asyncio.create_task(fleet.keep(), name="fleet"))
            serving = asyncio.create_task(server.serve(sockets=[listening]), name="serving")
            stop = asyncio.create_task(signals.first.wait(), name="stop")
            try:
                print(f"ready {address_of(listening)}", flush=True)
                ended, _ = await asyncio.wait({*keeping, serving, stop}, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()  # a part that ends by itself has failed
            finally:
                server.should_exit = True
                for task in (*keeping, stop):
                    task.cancel()
                await asyncio.gather(*keeping, stop, return_exceptions=True)
                await serving
    structlog.get_logger("abfleet.dashboard").info("stopped")
    return 0


class LiveContent:
    """Collects reports, routers, actions and configuration for pages."""

    def __init__(
        self,
        settings: DashboardSettings,
        reports: ReportKeeper,
        fleet: FleetWatch,
        autopilot: AutopilotWatch,
        shadow: ShadowKeeper,
        visits: Visits,
        shadow_visits: Visits,
    ) -> None:
        self._settings = settings
        self._reports = reports
        self._fleet = fleet
        self._autopilot = autopilot
        self._shadow = shadow
        self._shadow_visits = shadow_visits
        self._visits = visits

    def situation(self) -> Situation:
        """A snapshot of reports, routers and configuration for one page."""
        known, refresh = self._reports.status, self._settings.refresh_seconds
        compared = self._shadow.status
        working = self._reports.working_seconds
        return Situation(
            now=datetime.now(UTC),
            report=known.report,
            made_at=known.current_at,
            analysing=working > LONG_ANALYSIS_SECONDS or (working > 0 and known.report is None),
            analysis_error=known.problem,
            config=known.config,
            config_errors=known.config_errors,
            routers=self._fleet.states,
            refresh_s=refresh,
            stale_after_s=STALE_SECONDS + 4 * max(refresh, known.seconds),
            files=Files(self._settings.logs, self._settings.experiments),
            links=self._settings.links,
            autopilot=self._autopilot.files,
            shadow=ShadowAnswers(compared.report, compared.made_at, compared.problem),
        )

    def version(self) -> str:
        """Changes with each report, each status of the routers, each act and each comparison."""
        parts = self._reports.status, self._fleet, self._autopilot, self._shadow.status
        return ".".join(str(part.number) for part in parts)

    def visited(self) -> None:
        """Notes a visit, so that log and routers are polled at the full rate."""
        self._visits.note()

    def shadow_visited(self) -> None:
        """Notes that somebody wants the comparison of shadow calls, so that one is made."""
        self._shadow_visits.note()


class EmbeddedServer(uvicorn.Server):
    """uvicorn without its own signal handling: `serve` stops it."""

    def __init__(self, site: RequestGuard) -> None:
        super().__init__(
            uvicorn.Config(
                site,
                http="h11",
                ws="none",
                lifespan="off",
                loop="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=CLOSE_SECONDS,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signal handlers of the process as they are."""
        yield


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens at the address. Raises AddressError."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressError(f"{host}:{port}", error.strerror or str(error)) from error
    with listening:
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(MOST_CONNECTIONS)
        except OSError as error:
            raise AddressError(f"{host}:{port}", error.strerror or str(error)) from error
        yield listening


def address_of(listening: socket.socket) -> str:
    """The bound address as `HOST:PORT`, with IPv6 in brackets."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _may_see(tokens: TokenFile, token: str) -> bool:
    tokens.watched.check()  # one that was taken away ends what it opened
    found = tokens.find(token)
    return found is not None and SCOPE in found.scopes
