"""The threads in which the directory store waits for the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from epoch.store.directory.files import explained

_P = ParamSpec("_P")
_T = TypeVar("_T")

_COUNT: Final = 8
"""fsync(2) of a large file holds a thread for seconds; parts go on in the others."""


class Threads:
    """A pool of threads of the store's own, so that nobody else's work waits behind the disk."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_COUNT, thread_name_prefix="epoch-store")

    async def run(
        self, operation: str, call: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Run a blocking call; an `OSError` becomes a `StoreError` that begins with `operation`.

        Cancelled, it returns only once the call has ended or will never begin: the caller's memory
        and file descriptors are not in use any more.
        """
        running = self._pool.submit(call, *args, **kwargs)
        waiting = asyncio.wrap_future(running)
        cancelled: asyncio.CancelledError | None = None
        while not waiting.done():
            try:
                await asyncio.wait((waiting,))
            except asyncio.CancelledError as error:
                cancelled = error
                running.cancel()
        if cancelled is not None:
            if not waiting.cancelled():
                waiting.exception()
            raise cancelled
        with explained(operation):
            return waiting.result()

    def close(self) -> None:
        """End the threads; nothing may be under way."""
        self._pool.shutdown()
