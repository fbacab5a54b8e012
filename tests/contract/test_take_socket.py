"""The socket of a large object that is read around the store's own client."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator

import pytest

from epoch.config import MIB, S3Settings
from epoch.store.base import OpenSocket
from epoch.store.s3.store import S3Store

DATA = random.Random(9).randbytes(9 * MIB)


@contextlib.asynccontextmanager
async def store_at(settings: S3Settings) -> AsyncIterator[S3Store]:
    store = S3Store(settings)
    try:
        yield store
    finally:
        await store.close()


async def rest_of(taken: OpenSocket, count: int) -> bytes:
    """What comes over the socket."""
    found = bytearray()
    with socket.fromfd(taken.descriptor, socket.AF_INET, socket.SOCK_STREAM) as giver:
        giver.setblocking(False)
        async with asyncio.timeout(20):
            while len(found) < count:
                data = await asyncio.get_running_loop().sock_recv(giver, MIB)
                assert data
                found += data
    return bytes(found)


@pytest.mark.parametrize("pause", [0.0, 0.2], ids=["at once", "later"])
@pytest.mark.parametrize("span", [(0, None), (3, None), (1000, 8 * MIB), (MIB, 2 * MIB)])
async def test_first_and_socket_give_all_of_it(
    s3_settings: S3Settings, span: tuple[int, int | None], pause: float
) -> None:
    """Also where much has come by then, so that the client has stopped reading in between."""
    expected = DATA[span[0] : span[1]]
    async with store_at(s3_settings) as store:
        await store.put("large", DATA)
        async with store.open("large", *span) as reader:
            assert reader is not None
            await asyncio.sleep(pause)
            taken = reader.take_socket()
            if taken is None:
                assert len(expected) == MIB  # so little may have come to its end by now
                assert b"".join([chunk async for chunk in reader]) == expected
            else:
                rest = len(expected) - len(taken.first)
                assert taken.first + await rest_of(taken, rest) == expected
        assert await store.get("large", len(DATA)) == DATA


async def test_a_small_object_keeps_its_connection(s3_settings: S3Settings) -> None:
    async with store_at(s3_settings) as store:
        await store.put("small", DATA[: MIB - 1])
        async with store.open("small") as reader:
            assert reader is not None
            assert reader.take_socket() is None
            assert b"".join([chunk async for chunk in reader]) == DATA[: MIB - 1]
