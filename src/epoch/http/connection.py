"""One client connection: heads in, responses out, bodies straight into sinks.

A `BufferedProtocol` for uvloop. It must not inherit from `asyncio.Protocol`: uvloop would then
copy every receive. Between heads the bytes land in one scratch buffer that all connections share,
so an idle connection owns no memory for them; within a body they land where the sink says.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import TYPE_CHECKING, Final

from epoch.errors import Code, RegistryError
from epoch.http.body import RequestBody
from epoch.http.head import Head, bad_request, parse, too_long
from epoch.http.memory import Claims
from epoch.http.message import BodyCut, ClientGone, Request, Response, ResponseCut
from epoch.http.phase import Phase, follow
from epoch.http.request_id import FIELD, request_id
from epoch.http.response import (
    CLIENT_GONE,
    CONTINUE,
    FULL,
    RESPONSE_CUT,
    TLS_ON_PLAIN_PORT,
    error_response,
    render_error,
    render_head,
)
from epoch.http.sendfile import unread
from epoch.http.sending import Sender
from epoch.metrics import metrics

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from epoch.http.forwarded import Proxies
    from epoch.http.shared import ListenerState

logger = logging.getLogger(__name__)

SCRATCH: Final = bytearray(16384)
"""Where heads, early bytes and unwanted bytes land: used and emptied within one callback."""

STASH_LIMIT: Final = 65536
"""Bytes kept of what a client sends ahead while its request is being answered."""

DRAIN_BYTES: Final = 64 * 1024 * 1024
DRAIN_SECONDS: Final = 2.0
"""How long an unwanted body is read and dropped after a final answer: closing with unread bytes
would make the kernel send RST, and the client would lose the answer."""

EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")
"""May come before a request (RFC 9112, section 2.2)."""


class Connection:
    """See the module. Created by the listener for every accepted connection."""

    def __init__(self, service: ListenerState) -> None:
        # Global state
        self._service = service
        self._loop = service.loop
        self._stopwatch = metrics.decrypting if service.secure else metrics.receiving
        # Per-connection state
        self.peer = ""
        self._proxies: Proxies | None = None  # where the peer is one of them
        self._transport: asyncio.Transport
        self._sender: Sender
        self._stash = b""
        self._since = self._loop.time()  # of waiting for a head, or of draining
        self._phase = Phase.HEAD
        self._served = 0
        self._keeps_alive = True  # whether another request may follow this one
        self._reading_paused = False
        self._eof = False
        self._droppable = 0  # bytes that may still be dropped while draining
        # Per-request state
        self._body: RequestBody | None = None
        self._expects_continue = False
        self._claims = Claims(service.memory, self)

    # Protocol interface

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client has connected."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer or "-")
        service = self._service
        if service.proxies is not None and isinstance(peer, tuple):
            self._proxies = service.proxies if service.proxies.trusts(peer[0]) else None
        self._sender = Sender(
            transport,
            secure=service.secure,
            stall=service.timeouts.body_idle,
            min_rate=service.timeouts.min_rate,
        )
        service.connections.add(self)
        metrics.connections += 1
        if not service.admit(self):
            self._answer_and_close(FULL)

    def connection_lost(self, _exc: Exception | None) -> None:
        """The connection is gone; what the handler still does it does for itself."""
        self._service.connections.discard(self)
        self._service.admission.works(self)
        metrics.connections -= 1
        if self._body is not None and not self._body.complete:
            self._body.fail(ClientGone("the connection was lost"))
        self._sender.lose()
        self._end()

    def eof_received(self) -> bool:
        """The client has closed its side; it may still be reading."""
        self._eof = True
        # Under TLS uvloop closes now whatever is said here: what is still to be sent is lost.
        stays_open = not self._service.secure
        if self._phase is Phase.HANDLING:
            if self._body is not None:
                self._body.end_of_stream()
            return stays_open
        if self._phase is Phase.HEAD and self._stash:
            self._refuse(bad_request("the connection ended within a request head"))
            return stays_open
        return False

    def pause_writing(self) -> None:
        """The client reads more slowly than we send."""
        self._sender.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._sender.resume()

    def get_buffer(self, _sizehint: int) -> Buffer:
        """Where the kernel's bytes go. Must not pause, close or abort (uvloop would crash)."""
        body = self._body
        if body is not None and body.reading:
            buffer = body.get_buffer()
            if buffer is not None:
                # All that happens until buffer_updated is SSL_read, or read(2).
                self._stopwatch.begin()
                return buffer
        return SCRATCH

    def buffer_updated(self, count: int) -> None:
        """`count` bytes lie in the buffer last given out."""
        body = self._body
        if body is not None and body.reading:
            self._stopwatch.end(count)
            self._stash += body.received(count)
        elif self._phase is Phase.HEAD:
            if self._served and not self._stash:
                self._since = self._loop.time()  # a head begins
                self._service.admission.waits(self, self._since, served=True)
            self._stash += SCRATCH[:count]
            self._next_head()
        elif self._phase is Phase.HANDLING:
            self._stash += SCRATCH[:count]
            if len(self._stash) > STASH_LIMIT:
                self.pause_reading()
        elif self._phase is Phase.DRAINING:
            self._droppable -= count
            if self._droppable <= 0:
                self.abort()

    # Wire: what a body asks for

    def pause_reading(self) -> None:
        """See `body.Wire`."""
        if not self._reading_paused and not self._sender.lost:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See `body.Wire`."""
        if self._reading_paused and not self._sender.lost:
            self._reading_paused = False
            self._transport.resume_reading()

    def send_continue(self) -> None:
        """See `body.Wire`."""
        if self._expects_continue and not self._sender.lost:
            self._expects_continue = False
            self._transport.write(CONTINUE)

    async def reserve(self, size: int) -> None:
        """See `body.Wire`."""
        await self._claims.reserve(size)

    @property
    def moved(self) -> int | None:
        """See `memory.Holder`."""
        if self._body is not None and self._body.awaited:
            return self._body.bytes_received
        return self._sender.taken

    def give_up(self) -> None:
        """See `memory.Holder`."""
        logger.warning("a slow client is cut, since others wait for memory: %s", self.peer)
        if self._body is not None and self._body.awaited:
            self._body.fail(BodyCut(Code.UNAVAILABLE, "the body comes too slowly", status=408))
        else:
            self.abort()

    def unread(self) -> int:
        """See `body.Wire`."""
        return 0 if self._sender.lost else unread(self._transport)

    # Heads

    def _next_head(self) -> None:
        """Begin the next request, if its head is all here."""
        empty_lines = EMPTY_LINES.match(self._stash)
        data = self._stash[empty_lines.end() :] if empty_lines else self._stash
        if not self._served and data[:1] == b"\x16":
            # The first byte of a TLS handshake record (RFC 8446, section 5.1).
            self._transport.write(TLS_ON_PLAIN_PORT)
            self._linger()
            return
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._stash = data
            if len(data) > self._service.limits.head:
                self._refuse(too_long(data, self._service.limits))
            elif b"\n\n" in data or data[:1] == b"\n":
                self._refuse(bad_request("a line of the request head does not end with CR LF"))
            elif self._eof and not self.eof_received():
                self._close()
            return
        try:
            head = parse(data[: end + 4], self._service.limits)
        except RegistryError as error:
            self._refuse(error)
            return
        self._begin(head, data[end + 4 :])

    def _begin(self, head: Head, rest: bytes) -> None:
        self._phase = follow(self._phase, Phase.HANDLING)
        self._served += 1
        self._keeps_alive = head.keep_alive
        self._body = body = RequestBody(self, head.length, self._service.max_body)
        self._expects_continue = head.expects_continue and not rest
        self._stash = rest
        if not body.complete:
            # Held until a sink is there: the body must not pile up here meanwhile.
            self.pause_reading()
            self._stash = body.prepend(rest)
        peer, secure = self.peer, self._service.secure
        if self._proxies is not None:
            peer, secure = self._proxies.client(peer, head.headers, secure=secure)
        request = Request(
            method=head.method,
            path=head.path,
            query=head.query,
            headers=head.headers,
            body=body,
            peer=peer,
            secure=secure,
            reserve=self.reserve,
            id=request_id(head.headers),
        )
        task = self._loop.create_task(self._serve(request, body))
        self._service.tasks.add(task)
        self._service.admission.works(self)
        self._service.make_room()
        task.add_done_callback(self._service.tasks.discard)

    def _refuse(self, error: RegistryError) -> None:
        """Answer what is no request at all, and close."""
        self._service.log_refusal(self.peer, error)
        self._answer_and_close(error)

    def _answer_and_close(self, error: RegistryError) -> None:
        self._transport.write(render_error(error, self._service.always))
        self._linger()

    # Requests

    async def _serve(self, request: Request, body: RequestBody) -> None:
        started = time.perf_counter()  # the loop's clock stands still within an iteration
        self._sender.sent = 0
        status = CLIENT_GONE
        try:
            response = self._claims.answer(await self._answer(request))
            if isinstance(response.body, bytes) and not self._expects_continue:
                await body.outwait()
            response, head = await self._render(response, body, request.id)
            await self._sender.send(request.method, response, head)
            status = response.status
        except ClientGone:
            self.abort()
            return
        except ResponseCut as error:
            status = RESPONSE_CUT
            what = f"{request.method} {request.path}: {error} (id {request.id})"
            logger.error("a response was cut: %s", what)
            self.abort()
            return
        except Exception:
            status = Code.UNKNOWN.status
            logger.exception("a response failed: %s", request.id)
            self.abort()
            return
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._body = None
            self._claims.release()
            seconds = time.perf_counter() - started
            sent = self._sender.sent
            self._service.log_request(request, status, body.bytes_received, sent, seconds)
        if self._phase is Phase.CLOSED:
            return
        if not self._keeps_alive or self._service.closing:
            self._linger(unread=not body.complete)
        else:
            self._phase = follow(self._phase, Phase.HEAD)
            self._since = self._loop.time()
            self._service.admission.waits(self, self._since, served=True)
            self._stash = body.take_back() + self._stash
            self.resume_reading()
            if self._stash:
                self._next_head()
            elif self._eof:
                self._close()

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._service.handler(request)
        except RegistryError as error:
            return error_response(error)
        except ClientGone:
            raise
        except Exception:
            logger.exception("a handler failed: %s %s", request.id, request.method)
            return error_response(RegistryError(Code.UNKNOWN))

    async def _render(
        self, response: Response, body: RequestBody, name: str
    ) -> tuple[Response, bytes]:
        """A response and its head; that of a 500 where the handler's own cannot be sent."""
        if not body.complete:
            self._keeps_alive = False
        always = b"%b%b: %b\r\n" % (self._service.always, FIELD, name.encode())
        keep_alive = self._keeps_alive and not self._service.closing
        try:
            return response, render_head(response, always, keep_alive=keep_alive)
        except (ValueError, KeyError):
            logger.exception("a response cannot be sent: %s", name)
            if not isinstance(response.body, bytes):
                await response.body.aclose()
            response = error_response(RegistryError(Code.UNKNOWN))
            return response, render_head(response, always, keep_alive=keep_alive)

    # The end

    def _linger(self, *, unread: bool = True) -> None:
        """Close so that the client sees the answer: half-close, drop a bounded rest, close.

        `unread`: whether the client may still be sending what was asked for."""
        self._stash = b""
        if self._phase is Phase.CLOSED:
            return
        secure = self._service.secure
        if self._eof or (secure and not unread):
            self._close()
            return
        self._phase = follow(self._phase, Phase.DRAINING)
        self._droppable = DRAIN_BYTES
        self._since = self._loop.time()
        self._service.admission.waits(self, self._since, served=False)
        if not secure:  # TLS has no half-close here: the client goes when it has read the answer
            self._transport.write_eof()
        self.resume_reading()

    def _close(self) -> None:
        """Close as soon as what is queued is out."""
        self._end()
        self._transport.close()

    def _end(self) -> None:
        self._stash = b""
        if self._phase is not Phase.CLOSED:
            self._phase = follow(self._phase, Phase.CLOSED)

    def close_when_idle(self) -> None:
        """The server shuts down: close between requests, and after the one that is running."""
        if self._phase is Phase.HANDLING:
            self._keeps_alive = False
        elif self._phase is Phase.HEAD:
            self._close()

    def abort(self) -> None:
        """Close at once."""
        self._end()
        self._transport.abort()

    def tick(self, now: float) -> None:
        """Hold the client to its deadlines; called about once a second."""
        timeouts = self._service.timeouts
        unsent = self._sender.look(now)
        if unsent is None:
            self.abort()
        elif self._phase is Phase.HANDLING:
            if self._body is not None:
                self._body.tick(now, timeouts.body_idle, timeouts.min_rate)
        elif self._phase is Phase.DRAINING:
            if unsent:
                self._since = now  # the answer is not out yet
            elif now - self._since > DRAIN_SECONDS:
                self.abort()
        elif self._phase is Phase.CLOSED:
            pass
        elif self._stash or not self._served:
            if now - self._since > timeouts.head:
                if self._stash:
                    self._refuse(bad_request("the request head did not come in time", 408))
                else:
                    self._close()
        elif now - self._since > timeouts.idle:
            self._close()
