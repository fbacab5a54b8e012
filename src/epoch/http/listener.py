"""The listening socket, what all its connections share, their clock, and the orderly end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from epoch.errors import RegistryError
from epoch.http.connection import Connection
from epoch.http.head import Limits
from epoch.http.message import Handler, Request

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0
BACKLOG: Final = 1024

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


class Service:
    """What all connections of one listener share; and their listener."""

    def __init__(
        self,
        handler: Handler,
        *,
        limits: Limits,
        timeouts: Timeouts,
        max_body: int,
        access_log: AccessLog,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.handler = handler
        self.limits = limits
        self.timeouts = timeouts
        self.max_body = max_body
        self.always = "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
        self.secure = False
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        """Requests being answered; some outlive their connection."""
        self.closing = False
        self._access_log = access_log
        self._server: asyncio.Server | None = None
        self._clock: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen on an address; port 0 takes a free one. Returns where. OSError if it is taken."""
        self._server = await self.loop.create_server(
            lambda: Connection(self),  # type: ignore[arg-type, return-value]
            host or None,
            port,
            backlog=BACKLOG,
        )
        self._tick()
        address = self._server.sockets[0].getsockname()
        return address[0], address[1]

    async def close(self, grace: float) -> None:
        """Stop listening, let running requests end within `grace` seconds, then cut the rest."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close_when_idle()
        if self.tasks and grace > 0:
            await asyncio.wait(self.tasks, timeout=grace)
        cut = list(self.tasks)
        for task in cut:
            task.cancel()
        if cut:
            await asyncio.wait(cut)
        # The last answers are on their way: half-closed connections end by themselves.
        deadline = self.loop.time() + 2 * TICK_SECONDS
        while self.connections and self.loop.time() < deadline:  # noqa: ASYNC110 - bounded
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        if self._clock is not None:
            self._clock.cancel()
        if self._server is not None:
            await self._server.wait_closed()

    def log_request(
        self, request: Request, status: int, received: int, sent: int, seconds: float
    ) -> None:
        """One access line."""
        self._access_log(request, request.peer, status, received, sent, seconds)

    def log_refusal(self, connection: Connection, error: RegistryError) -> None:
        """One access line for what was no request."""
        self._access_log(None, connection.peer, error.status, 0, 0, 0.0)

    def _tick(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            connection.tick(now)
        self._clock = self.loop.call_later(TICK_SECONDS, self._tick)
