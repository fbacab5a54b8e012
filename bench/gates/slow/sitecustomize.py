"""Python imports this at its start where the folder is on its path: a server made slower.

After every receive it spins for a share (EPOCH_BENCH_SLOWER) of the CPU time that the process has
used since the last one, whatever that went to.
"""

import os
import time

from epoch.http.connection import Connection

_SHARE = float(os.environ["EPOCH_BENCH_SLOWER"])
_received = Connection.buffer_updated
_since = time.process_time()


def _slow(self: Connection, count: int) -> None:
    global _since
    _received(self, count)
    now = time.process_time()
    enough = now + (now - _since) * _SHARE
    while time.process_time() < enough:
        pass
    _since = time.process_time()


Connection.buffer_updated = _slow  # type: ignore[method-assign]
