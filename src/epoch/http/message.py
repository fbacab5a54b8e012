"""One request, one response, and the two protocols at which HTTP meets the rest of Epoch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from epoch.errors import RegistryError

if TYPE_CHECKING:
    from typing_extensions import Buffer


class ClientGone(Exception):
    """The client closed, broke or stalled its connection before its request was complete."""


class ResponseCut(Exception):
    """A response ended before its length because what gives its bytes failed, not the client. The
    text says why, for the log."""


class BodyCut(RegistryError):
    """The client ended its body too early, or is too slow, and can still read an answer."""


class Flow(Protocol):
    """How a sink slows the client down. Both verbs are idempotent and safe from any callback
    but `get_buffer` (uvloop crashes when reading is paused inside it)."""

    def pause(self) -> None:
        """Stop reading the body; the client is held by TCP."""

    def resume(self) -> None:
        """Read on."""

    def fail(self, error: Exception) -> None:
        """End the body: `Body.into` raises `error`."""

    def unread(self) -> int:
        """Bytes that the client has sent and nobody has read; with TLS about as many."""


class BodySink(Protocol):
    """Where the bytes of a request body land, straight from the kernel."""

    def get_buffer(self, limit: int) -> Buffer:
        """Writable memory for the next receive, at most `limit` bytes. Never empty; idempotent: a
        call does not promise that bytes follow. Not called while the flow is paused."""

    def received(self, count: int) -> None:
        """`count` bytes of the body now lie at the start of the last buffer given out."""

    def idle(self, seconds: float) -> None:
        """No byte has come for so long though we were reading: give back what is not needed.
        An exception ends the body with it."""


class Body(Protocol):
    """The body of one request, read at most once, in one of two ways."""

    @property
    def length(self) -> int | None:
        """Bytes announced by Content-Length, 0 where there is no body, None where it is chunked."""

    async def read(self, limit: int) -> bytes:
        """The whole body. More than `limit` bytes: `RegistryError` SIZE_INVALID with status 413."""

    async def into(self, make_sink: Callable[[Flow], BodySink]) -> int:
        """Stream the body into the sink that `make_sink` builds around the connection's flow.

        Returns the number of bytes once the last one has been handed over. Raises `ClientGone`
        when the connection ends before the body does, and whatever the sink raises.
        """


class StoreSocket(Protocol):
    """A body on its way from a store, of which nobody here has to look at a byte."""

    @property
    def first(self) -> bytes:
        """What has been received of it."""

    @property
    def descriptor(self) -> int:
        """The non-blocking socket that all the rest can be received from, and more must not be.
        It is not closed by who receives."""

    @property
    def stall(self) -> float:
        """Seconds that may pass until the next bytes come."""


class BodyStream(Protocol):
    """The body of a response that is too large to be held."""

    @property
    def length(self) -> int:
        """Bytes that will be sent."""

    @property
    def offset(self) -> int:
        """Where they begin in the file behind `fileno()`."""

    def fileno(self) -> int | None:
        """A file to send from with sendfile(2), or None."""

    def take_socket(self) -> StoreSocket | None:
        """A socket to send from, once and instead of iterating, or None: then iterate."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes, chunk by chunk."""

    async def resume(self, sent: int, error: Exception) -> None:
        """What gave the bytes broke off with `error` after `sent` of them. Prepare to give those
        that follow, in any of the three ways; raise where that is of no use."""

    async def aclose(self) -> None:
        """Give back what the stream holds; called exactly once, whatever happened."""


class Caller(Protocol):
    """Who sent a request, as far as its rights go. That it may do what the request's own method
    does to the request's own repository is settled before a handler is called."""

    def may(self, action: str, repository: str) -> bool:
        """Whether the caller may `pull`, `push` or `delete` there."""

    @property
    def sees_all(self) -> bool:
        """Whether the caller may pull everywhere, so that no blob is to be hidden from it."""


class Anybody:
    """The caller where nothing has been decided: may do everything."""

    def may(self, action: str, repository: str) -> bool:  # noqa: ARG002 - see `Caller`
        """See `Caller`."""
        return True

    @property
    def sees_all(self) -> bool:
        """See `Caller`."""
        return True


async def _nothing_to_reserve(_size: int) -> None:
    """Of a request that no connection has to account for."""


@dataclass(slots=True)
class Request:
    """One parsed request head, and its body still to be read."""

    method: str
    path: str
    """The path exactly as it came, without the query; never percent-decoded."""
    query: Sequence[tuple[str, str]]
    """Decoded pairs in the order they came; keys may repeat."""
    headers: Mapping[str, str]
    """Lower-case names; values decoded as latin-1, repeated ones joined by ", "."""
    body: Body
    peer: str
    """The client's address, for the log: with its port, or without where a proxy tells it."""
    secure: bool = False
    """Whether it came over TLS, here or at a trusted proxy."""
    caller: Caller = field(default_factory=Anybody)
    """Who sent it: for what a handler decides itself (the source of a mount, what a list shows)."""
    reserve: Callable[[int], Awaitable[None]] = _nothing_to_reserve
    """Wait for memory for so many bytes until the request is answered; for what a handler reads
    whole from the store, above 64 KiB. UNAVAILABLE where that takes too long."""
    endpoint: str = "none"
    """Which of a fixed set of endpoints it is for, as the metrics name it; set by the handler."""
    id: str = ""
    """Its name in the log and in the answer."""
    user: str = ""
    """Who has shown credentials that are right, for the log; set by the handler."""

    def parameter(self, key: str) -> str | None:
        """The first value of a query parameter, or None."""
        for name, value in self.query:
            if name == key:
                return value
        return None

    def parameters(self, key: str) -> list[str]:
        """All values of a query parameter, in order."""
        return [value for name, value in self.query if name == key]

    def has_version(self, etag: str) -> bool:
        """Whether If-None-Match names the version that there is, or any (`*`): then the answer is
        304 (RFC 9110, section 13.1.2). `etag` is in quotes and holds no comma."""
        header = self.headers.get("if-none-match")
        if header is None:
            return False
        # Our etags hold no comma, so a foreign one that is split in the middle cannot become ours.
        tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
        return "*" in tags or etag in tags


@dataclass(slots=True)
class Response:
    """What a handler answers. Content-Length, Date and Connection are added when it is sent.

    A response to HEAD is built like the one to GET: its body is measured, not sent. A body that
    is a stream is closed in either case.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | BodyStream = b""


Handler = Callable[[Request], Awaitable[Response]]
"""Answers one request. A `RegistryError` that it raises is rendered as an OCI error body; any
other exception is logged and answered with 500 UNKNOWN."""
