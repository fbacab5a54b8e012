"""One body on its way into one object: sink, dispatcher and hasher, together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from epoch._fastio import PartBuffer
from epoch.config import UploadSettings
from epoch.http.message import Body, Flow
from epoch.store.base import Store
from epoch.upload.budget import Budget
from epoch.upload.dispatcher import NOTHING, Dispatcher, ExistingUpload
from epoch.upload.hashing import Hasher, Hashing
from epoch.upload.sink import PartSink


class Transfer:
    """Receives one body. Afterwards `last` holds what was not shipped, and is to be released."""

    def __init__(
        self,
        store: Store,
        budget: Budget,
        hashing: Hashing,
        settings: UploadSettings,
        key: str,
        *,
        hasher: Hasher,
        limit: int,
        part_size: int,
        keep_last: bool = True,
        begun: ExistingUpload = NOTHING,
        claim: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`limit`: the most bytes of this body. `keep_last`: a full part at the end of a body of
        known length is kept back too. `begun`, `claim`: see `Dispatcher`."""
        self.received = 0
        self.last: PartBuffer | None = None
        self.dispatcher = Dispatcher(
            store,
            key,
            settings.parts_in_flight,
            on_room=self._room,
            on_failure=self._failed,
            begun=begun,
            claim=claim,
        )
        self._budget = budget
        self._hashing = hashing
        self._hasher = hasher
        self._limit = limit
        self._part_size = part_size
        self._keep_last = keep_last
        self._sink: PartSink | None = None
        self._flow: Flow | None = None

    async def receive(self, body: Body, first: PartBuffer | None = None) -> None:
        """Take the whole body; into `first`, ours from now on, where there is a begun part.

        However it ends, what came is counted in `received`, and lies in shipped parts and in
        `last`; the hasher has taken it after `digested`.
        """
        self.last = first
        try:
            await body.into(lambda flow: self._make_sink(flow, body.length))
            if self._sink is not None:
                await self._sink.settle()
        finally:
            if self._sink is not None:
                self.last = self._sink.take_last()
                self.received = self._sink.total

    async def digested(self) -> None:
        """Wait until the hasher has taken all that came."""
        if self._sink is not None:
            await self._sink.digested()

    @property
    def midstates(self) -> Mapping[int, bytes]:
        """See `PartSink.midstates`."""
        return {} if self._sink is None else self._sink.midstates

    def take_last(self) -> PartBuffer | None:
        """`last`, the caller's from now on."""
        last, self.last = self.last, None
        return last

    async def abort(self) -> None:
        """Give up memory, parts under way, and a multipart upload that we began."""
        if self._sink is not None:
            self._sink.drop()
        last = self.take_last()
        if last is not None:
            last.release()
        await self.dispatcher.abort()

    def _make_sink(self, flow: Flow, length: int | None) -> PartSink:
        self._flow = flow
        self._sink = PartSink(
            flow,
            self._budget,
            self._hashing,
            self.dispatcher,
            hasher=self._hasher,
            length=length,
            limit=self._limit,
            part_size=self._part_size,
            first=self.last,
            keep_last=self._keep_last,
        )
        return self._sink

    def _room(self) -> None:
        if self._sink is not None:
            self._sink.part_done()

    def _failed(self, error: Exception) -> None:
        if self._flow is not None:
            self._flow.fail(error)
