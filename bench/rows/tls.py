"""A push with TLS from the client and TLS to the store: CPU beside a floor that does the same."""

import sys
from collections.abc import Iterator

from bench.harness.blobs import GIB
from bench.harness.build import has_openssl
from bench.harness.measure import Load
from bench.harness.row import Row
from bench.harness.scenarios import Case, run
from bench.harness.servers import Tuning
from bench.rows.push import against_floor


def rows(runs: int) -> Iterator[Row]:
    """One PUT. Nothing where OpenSSL's headers are missing."""
    if not has_openssl():
        print(
            "4  skipped: TLS rows need OpenSSL's headers (libssl-dev, openssl-devel)",
            file=sys.stderr,
        )
        return
    result = run(Case(Load(size=GIB, tls=True), Tuning(), ("floor", "epoch put")), runs)
    yield against_floor(4, "PUT of 1 GiB, TLS in and out", 1.15, result, "epoch put")
