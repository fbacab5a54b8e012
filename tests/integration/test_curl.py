"""curl as the client: it asks with `Expect`, streams from a file or a pipe, and judges us."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from tests.tools.client import digest_of
from tests.tools.machine import curl
from tests.tools.running import PART, Running

DATA = random.Random(13).randbytes(2 * PART + 1)


async def run(*command: str, data: bytes = b"") -> str:
    """What it prints, once it has ended well."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(data)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_upload_of_a_file(running: Running, tmp_path: Path) -> None:
    source, back = tmp_path / "blob", tmp_path / "back"
    source.write_bytes(DATA)
    url = f"http://127.0.0.1:{running.port}/v2/a/b/blobs/{digest_of(DATA)}"
    status = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    assert await run(*curl(), *status, "--upload-file", str(source), url) == "201"
    assert (
        await run(*curl(), *status, "-T", str(source), "-H", "Expect: 100-continue", url) == "201"
    )
    await run(*curl(), "--silent", "--fail", "--output", str(back), url)
    assert digest_of(back.read_bytes()) == digest_of(DATA)


async def test_upload_of_a_pipe_is_chunked(running: Running) -> None:
    url = f"http://127.0.0.1:{running.port}/v2/a/b/blobs/{digest_of(DATA)}"
    options = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    assert await run(*curl(), *options, "--upload-file", "-", url, data=DATA) == "201"


async def test_refusal_is_seen(running: Running) -> None:
    """The error body arrives, though curl has more to send."""
    url = f"http://127.0.0.1:{running.port}/v2/a/b/blobs/sha256:0"
    for expect in ("Expect:", "Expect: 100-continue"):
        body = await run(*curl(), "--silent", "-H", expect, "--upload-file", "-", url, data=DATA)
        assert "DIGEST_INVALID" in body
