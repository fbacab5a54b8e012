"""One body on its way into one object: sink, dispatcher and hasher, together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from epoch._fastio import PartBuffer
from epoch.http.message import Body, Flow
from epoch.upload.context import BodyPlan, UploadContext
from epoch.upload.dispatcher import NOTHING, Dispatcher, ExistingUpload
from epoch.upload.sink import PartSink


class Transfer:
    """Receives one body. Afterwards `last` holds what was not shipped, and is to be released."""

    def __init__(
        self,
        context: UploadContext,
        key: str,
        plan: BodyPlan,
        *,
        begun: ExistingUpload = NOTHING,
        claim: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`key`: of the object that is made. `begun`, `claim`: see `Dispatcher`."""
        self.received = 0
        self.last: PartBuffer | None = None
        self.dispatcher = Dispatcher(
            context.store,
            key,
            context.settings.parts_in_flight,
            on_room=self._room,
            on_failure=self._failed,
            begun=begun,
            claim=claim,
        )
        self._context = context
        self._plan = plan
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
            self._context, flow, self.dispatcher, self._plan, length=length, first=self.last
        )
        return self._sink

    def _room(self) -> None:
        if self._sink is not None:
            self._sink.part_done()

    def _failed(self, error: Exception) -> None:
        if self._flow is not None:
            self._flow.fail(error)
