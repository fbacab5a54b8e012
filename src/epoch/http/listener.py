"""The listening socket, the clock of its connections, and the orderly end."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from epoch.http.allocator import Allocator
from epoch.http.connection import Connection
from epoch.http.shared import ListenerState
from epoch.http.tls import HANDSHAKE_SECONDS, SHUTDOWN_SECONDS, Tls

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0
BACKLOG: Final = 1024


class Service(ListenerState):
    """A listener, and what all its connections share."""

    _server: asyncio.Server | None = None
    _clock: asyncio.TimerHandle | None = None
    allocator: Allocator | None = None
    """Set where the whole process is the server's."""

    async def listen(
        self, host: str, port: int, tls: Tls | None = None, *, reuse_port: bool = False
    ) -> tuple[str, int]:
        """Listen on an address; port 0 takes a free one. Returns where. OSError if it is taken.

        `reuse_port`: other processes may listen there too, and share what comes (socket(7)).
        """
        self.secure = tls is not None
        self._server = await self.loop.create_server(
            lambda: Connection(self),  # type: ignore[arg-type, return-value]
            host or None,
            port,
            backlog=BACKLOG,
            reuse_port=reuse_port,
            ssl=tls.context if tls else None,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS if tls else None,
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

    def _tick(self) -> None:
        # First of all: what fails below must not end the deadlines of everybody.
        self._clock = self.loop.call_later(TICK_SECONDS, self._tick)
        now = self.loop.time()
        for connection in list(self.connections):
            try:
                connection.tick(now)
            except Exception:
                logger.exception("a connection cannot be held to its deadlines: cut")
                connection.abort()
        self.memory.tick(now)
        if self.allocator is not None:
            self.allocator.tick(len(self.connections), now)
