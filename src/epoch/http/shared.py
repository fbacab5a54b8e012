"""What all connections of one listener share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from epoch.errors import RegistryError
from epoch.http.admission import Admission
from epoch.http.forwarded import Proxies
from epoch.http.head import Limits
from epoch.http.memory import Memory
from epoch.http.message import Handler, Request

AccessLog = Callable[[Request | None, str, int, int, int, float], None]
"""Called once per request: the request (None where no head could be read), the peer, the status,
bytes of the body in and out, seconds."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, and bytes a second for `min_rate`; each follows progress, none is a total."""

    head: float
    idle: float
    body_idle: float
    min_rate: float


class ManagedConnection(Protocol):
    """A connection, as far as its listener looks after it."""

    def tick(self, now: float) -> None:
        """Hold the client to its deadlines."""

    def close_when_idle(self) -> None:
        """Close between requests, and after the one that is running."""

    def abort(self) -> None:
        """Close at once."""


class ListenerState:
    """Settings, the handler, and who is connected."""

    def __init__(
        self,
        handler: Handler,
        *,
        limits: Limits,
        timeouts: Timeouts,
        max_body: int,
        access_log: AccessLog,
        body_budget: int = 64 << 20,
        headers: tuple[tuple[str, str], ...] = (),
        proxies: Proxies | None = None,
    ) -> None:
        """`max_body`: the most bytes of a chunked body. `body_budget`: bytes of all bodies that
        are held whole. `headers`: sent with every response. `proxies`: whose word about a client
        is taken; None: nobody's."""
        self.loop = asyncio.get_running_loop()
        self.handler = handler
        self.limits = limits
        self.timeouts = timeouts
        self.max_body = max_body
        self.always = "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
        self.proxies = proxies
        self.secure = False
        self.closing = False
        self.admission = Admission()
        self.memory = Memory(body_budget)
        self.connections: set[ManagedConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        """Requests being answered; some outlive their connection."""
        self._access_log = access_log

    def make_room(self) -> bool:
        """Whether the descriptors suffice for what has just come; see `Admission`."""
        return self.admission.make_room(len(self.connections), len(self.tasks), self.loop.time())

    def admit(self, connection: ManagedConnection) -> bool:
        """Whether there is room for a new connection, which now waits for its first request."""
        now = self.loop.time()
        admitted = self.make_room()
        if admitted:
            self.admission.waits(connection, now, served=False)
        else:
            self.admission.refused(now)
        return admitted

    def log_request(
        self, request: Request, status: int, received: int, sent: int, seconds: float
    ) -> None:
        """One access line."""
        self._access_log(request, request.peer, status, received, sent, seconds)

    def log_refusal(self, peer: str, error: RegistryError) -> None:
        """One access line for what was no request."""
        self._access_log(None, peer, error.status, 0, 0, 0.0)
