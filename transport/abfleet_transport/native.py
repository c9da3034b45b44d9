"""The Call port on pygrpc-native: HTTP/2 in Rust threads, calls in batches. Knows nothing of what a call means.

What the library lacks is kept here: a limit on message size (it has none), and a grpcio server on a unix socket
behind it for every method that is not hot (health, reflection, streaming).
"""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import grpc
from pygrpc_native import EVENT_CALL, EVENT_CANCEL, NativeGrpcFront

from abfleet_transport.call import Call, Cancelled, Code, Deliver, Metadata
from abfleet_transport.drain import idle_instant
from abfleet_transport.errors import AddressError
from abfleet_transport.plan import FAILED_DELIVERY, PUSHBACK, ServerPlan, log_failed_delivery, too_large

LONGEST_SOCKET_PATH = 103
"""Bytes; macOS takes 103, Linux 107."""
RECEIVE_BATCH = 512
"""Calls taken in one trip over the GIL; more than are in flight in practice, so a burst is one trip."""


class NativeCall:
    """One call of the native front; `reply` and `fail` may come from any thread."""

    __slots__ = ("_front", "_id", "_live", "arrived", "deadline", "metadata", "method", "owner", "payload", "peer")
    client: str | None = None  # the library has no TLS

    def __init__(
        self,
        front: NativeGrpcFront,
        live: dict[int, "NativeCall"],
        call_id: int,
        method: int,
        payload: bytes,
        metadata: Metadata,
        peer: str,
        arrived: float,
        deadline: float | None,
    ) -> None:
        self._front = front
        self._live = live
        self._id = call_id
        self.method = method
        self.payload = payload
        self.metadata = metadata
        self.peer = peer
        self.arrived = arrived
        self.deadline = deadline
        self.owner: object = None

    def reply(self, payload: bytes) -> None:
        self._live.pop(self._id, None)
        self._front.respond(self._id, payload)

    def fail(self, code: Code, message: str, *, pushback_ms: int | None = None) -> None:
        self._live.pop(self._id, None)
        # The library refuses every trailer that begins with `grpc-`, the standard one of gRFC A6 among them.
        trailer = None if pushback_ms is None else [(PUSHBACK, str(pushback_ms))]
        self._front.fail(self._id, int(code), message, trailer)


class NativeServer:
    """Serves the hot methods natively and the rest through grpcio. `start` binds; `close` cuts what is still open."""

    transport = "native"

    def __init__(self, plan: ServerPlan, deliver: Deliver, cancelled: Cancelled) -> None:
        self._plan = plan
        self._deliver = deliver
        self._cancelled = cancelled
        self._live: dict[int, NativeCall] = {}  # changed by the receive thread, and by whoever answers a call
        self._front: NativeGrpcFront | None = None
        self._behind: grpc.aio.Server | None = None
        self._socket_folder: Path | None = None
        self._receiver: threading.Thread | None = None
        self.oversized = 0  # changed by the receive thread
        self._last_trip = 0.0  # changed by the receive thread

    @property
    def port(self) -> int:
        """The port that is bound; 0 before `start` and on a unix socket."""
        return 0 if self._front is None or self._plan.address.startswith("unix:") else self._front.bound_port

    @property
    def in_progress(self) -> int:
        """Calls that have been delivered and not answered."""
        return len(self._live)

    async def start(self) -> None:
        """Binds, starts the grpcio server behind it, and begins to deliver. Raises AddressError."""
        plan = self._plan
        try:
            front = NativeGrpcFront(
                plan.address,
                [(method, False) for method in plan.methods],
                io_threads=plan.io_threads,
                call_details=True,
                max_concurrent_streams=plan.max_concurrent_streams,
                max_metadata_size=plan.max_metadata_bytes,
            )
        except OSError as error:
            raise AddressError(plan.address, str(error)) from error
        self._front = front
        path = make_socket_path()
        self._socket_folder = path.parent
        self._behind = grpc.aio.server(interceptors=plan.interceptors)
        plan.add_services(self._behind)
        self._behind.add_insecure_port(f"unix:{path}")
        await self._behind.start()
        front.set_fallback(str(path))
        front.start()
        self._receiver = threading.Thread(target=self._receive, args=(front,), name="receive", daemon=True)
        self._receiver.start()

    def _receive(self, front: NativeGrpcFront) -> None:
        live, limit = self._live, self._plan.max_message_bytes
        while (events := front.recv_batch_details(RECEIVE_BATCH)) is not None:
            now = self._last_trip = time.monotonic()
            calls: list[Call] = []
            gone: list[NativeCall] = []
            for kind, call_id, method, payload, _, details in events:
                if kind == EVENT_CALL and payload is not None and details is not None:
                    metadata, peer, remaining = details
                    deadline = None if remaining is None else now + remaining
                    call = NativeCall(front, live, call_id, method, payload, metadata, peer, now, deadline)
                    live[call_id] = call
                    if len(payload) > limit:
                        self.oversized += 1
                        call.fail(Code.RESOURCE_EXHAUSTED, too_large(len(payload), limit))
                    else:
                        calls.append(call)
                elif kind == EVENT_CANCEL and (found := live.pop(call_id, None)) is not None:
                    gone.append(found)
            if calls:
                self._deliver_or_fail(calls)
            for call in gone:
                self._cancelled(call)

    def _deliver_or_fail(self, calls: list[Call]) -> None:
        try:
            self._deliver(calls)
        except Exception:  # noqa: BLE001 - without its receive thread the server would be deaf, and look healthy
            log_failed_delivery(len(calls))
            for call in calls:
                call.fail(*FAILED_DELIVERY)

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Waits for an idle instant, at most `grace_seconds`, and closes the sockets; calls still open are cut.

        Until then it goes on serving: the library has no drain of its own.
        """
        await idle_instant(lambda: len(self._live), lambda: self._last_trip, grace_seconds)
        if self._behind is not None:
            await self._behind.stop(0)
        if self._front is not None:
            self._front.close()
        if self._receiver is not None:
            self._receiver.join(timeout=5)
        if self._socket_folder is not None:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._socket_folder)


def make_socket_path() -> Path:
    """A path for the server behind, in a new folder of its own: in the temporary folder, or in /tmp where that is too
    long for a socket."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > LONGEST_SOCKET_PATH - len("/abfleet-12345678/grpc.sock"):
        folder = "/tmp"  # noqa: S108  # mkdtemp makes a folder that nobody else can enter
    return Path(tempfile.mkdtemp(prefix="abfleet-", dir=folder)) / "grpc.sock"
