"""Uploads as a state machine: whatever is sent in whatever order, the server does what a strict
model of it says. `make test-slow` takes ten thousand steps."""

from __future__ import annotations

import asyncio
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from epoch.metrics import metrics
from epoch.store.directory.store import DirectoryStore
from tests.tools.client import Answer, Client, digest_of, get_blob, head, pieces
from tests.tools.running import PART, Running, eventually, serving
from tests.tools.sessions import Session, leftovers

BYTES = random.Random(17).randbytes(2 * PART + 70_000)
SIZES = st.sampled_from([1, 2, 100, 1024, 70_000, PART - 1, PART, PART + 1, 2 * PART + 9])
PLACES = st.integers(0, 50_000)


@dataclass(eq=False)
class Model:
    """What a session should be."""

    client: Session
    content: bytes = b""
    interrupted: bool = False
    ended: str = ""
    """"" while open; the digest it was committed under; or "gone"."""

    @property
    def range(self) -> str:
        """The field that the server should answer."""
        return f"0-{max(0, len(self.content) - 1)}"


class Uploads(RuleBasedStateMachine):
    """Each rule is one request, a cut, or a restart."""

    sessions: Bundle[Model] = Bundle("sessions")

    @initialize()
    def start(self) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._home = tempfile.TemporaryDirectory(prefix="epoch-model-")
        self._blobs: dict[str, bytes] = {}
        self._open: set[Model] = set()
        self._begin_server()

    def _begin_server(self) -> None:
        store = DirectoryStore(Path(self._home.name), fsync=False)
        self._server = serving(store, leaves=True)
        self._running: Running = self._run(self._server.__aenter__())

    def _end_server(self) -> None:
        self._run(self._server.__aexit__(None, None, None))

    def _run(self, work: Any) -> Any:
        return self._runner.run(work)

    def teardown(self) -> None:
        try:
            self._run(self._look_at_the_end())
            self._end_server()
        finally:
            self._runner.close()
            self._home.cleanup()

    async def _look_at_the_end(self) -> None:
        port = self._running.port
        for model in self._open:
            model.client.port = port
            assert (await model.client.cancel()).status == 204
        await self._running.until_idle()
        assert await leftovers(self._running.store) == []
        stored = {
            "sha256:" + key.removeprefix("blobs/sha256/")
            for key in await self._running.keys()
            if key.startswith("blobs/sha256/")
        }
        assert stored == {digest for digest in self._blobs if digest.startswith("sha256:")}
        for digest, data in self._blobs.items():
            assert (await get_blob(port, digest)).digest == digest_of(data)

    # rules

    @rule(target=sessions, name=st.sampled_from(["a/b", "a", "c"]))
    def begin(self, name: str) -> Model:
        """POST."""
        model = Model(self._run(Session.begin(self._running.port, name)))
        self._open.add(model)
        return model

    @rule(model=sessions, sizes=st.lists(SIZES, min_size=2, max_size=6), at=PLACES)
    def send_several(self, model: Model, sizes: list[int], at: int) -> None:
        """PATCH after PATCH."""
        for size in sizes:
            self.send(model, size, at, True, 0)

    @rule()
    def restart(self) -> None:
        """Another process over the same store."""
        self._end_server()
        self._begin_server()

    @rule(model=sessions)
    def look(self, model: Model) -> None:
        """GET."""
        answer = self._ask(model, model.client.status())
        if self._is_open(model, answer):
            assert answer.status == 204
            assert answer.headers["range"] == model.range

    @rule(
        model=sessions,
        size=SIZES,
        at=PLACES,
        ranged=st.booleans(),
        chunk=st.sampled_from([0, 999, 70_000]),
    )
    def send(self, model: Model, size: int, at: int, ranged: bool, chunk: int) -> None:
        """PATCH in its place."""
        body = BYTES[at : at + size]
        first = len(model.content)
        place = f"{first}-{first + len(body) - 1}" if ranged else None
        sent = pieces(body, max(chunk, len(body) // 500)) if chunk else body
        answer = self._ask(model, model.client.patch(sent, place))
        if not self._is_open(model, answer):
            return
        if model.interrupted and not ranged:
            self._conflicts(model, answer)
            return
        assert answer.status == 202, answer
        model.content += body
        model.interrupted = False
        assert answer.headers["range"] == model.range

    @rule(
        model=sessions,
        size=SIZES,
        shift=st.integers(-3, 3).filter(bool),
        close=st.booleans(),
        chunked=st.booleans(),
    )
    def send_out_of_place(
        self, model: Model, size: int, shift: int, close: bool, chunked: bool
    ) -> None:
        """PATCH or PUT before or behind its place."""
        first = len(model.content) + shift
        if first < 0:
            return
        body = BYTES[:size]
        sent = pieces(body, 300_000) if chunked else body
        place = f"{first}-{first + len(body) - 1}"
        if close:
            digest = digest_of(body)
            answer = self._ask(model, model.client.close(digest, sent, place))
            if model.ended == digest:  # by chance the one that it was closed with
                assert answer.status == 201
                return
        else:
            answer = self._ask(model, model.client.patch(sent, place))
        if self._is_open(model, answer):
            self._conflicts(model, answer)

    @rule(model=sessions, size=SIZES, shift=st.sampled_from([-1, 1, 5000]))
    def send_another_length(self, model: Model, size: int, shift: int) -> None:
        """PATCH whose Content-Range does not say how long it is."""
        first = len(model.content)
        body = BYTES[:size]
        last = first + size - 1 + shift
        if last < first:
            return
        answer = self._ask(model, model.client.patch(body, f"{first}-{last}"))
        if self._is_open(model, answer):
            assert answer.refusal == (400, "SIZE_INVALID")

    @rule(model=sessions, size=SIZES, at=PLACES, keep=st.integers(0, 2 * PART), half=st.booleans())
    def send_and_cut(self, model: Model, size: int, at: int, keep: int, half: bool) -> None:
        """PATCH that ends in the middle."""
        if model.ended:
            return
        body = BYTES[at : at + size]
        kept = body[: min(keep, len(body) - 1)]
        self._run(self._cut(model, body, kept, half))
        if len(model.content + kept) > 1 and kept:
            model.content += kept
            model.interrupted = True
        self.look(model)

    async def _cut(self, model: Model, body: bytes, kept: bytes, half: bool) -> None:
        received = metrics.bytes_received + len(kept)
        first = len(model.content)
        place = f"Content-Range: {first}-{first + len(body) - 1}"
        async with Client(self._running.port) as client:
            await client.send(head("PATCH", model.client.location, body, place) + kept)
            await eventually(lambda: metrics.bytes_received == received)
            await eventually(lambda: bool(self._running.service.tasks))
            if half:
                client.finish()
                assert (await client.answer()).status == 400
            else:
                client.reset()
        await self._running.until_idle()

    @rule(
        model=sessions,
        size=st.sampled_from([0, 0, 1, 5000, PART + 1]),
        algorithm=st.sampled_from(["sha256", "sha256", "sha512"]),
        right=st.sampled_from([True, True, True, False]),
        now=st.integers(0, 2),
    )
    def close(self, model: Model, size: int, algorithm: str, right: bool, now: int) -> None:
        """PUT, with the last bytes. Not always, so that sessions grow old enough."""
        if model.ended or now:
            return
        body = BYTES[:size]
        first = len(model.content)
        content = model.content + body
        digest = digest_of(content if right else content + b"!", algorithm)
        place = f"{first}-{first + size - 1}" if size else None
        answer = self._ask(model, model.client.close(digest, body, place))
        self._open.discard(model)
        model.content = content
        if right:
            assert answer.status == 201, answer
            model.ended = digest
            self._blobs[digest] = content
        else:
            assert answer.refusal == (400, "DIGEST_INVALID")
            model.ended = "gone"

    @rule(model=sessions, now=st.integers(0, 5))
    def cancel(self, model: Model, now: int) -> None:
        """DELETE, seldom."""
        if model.ended or now:
            return
        assert self._ask(model, model.client.cancel()).status == 204
        model.ended = "gone"
        self._open.discard(model)

    @rule(model=sessions, what=st.sampled_from(["close", "other", "get", "patch", "delete"]))
    def use_what_has_ended(self, model: Model, what: str) -> None:
        """Only the closing PUT may be repeated."""
        if not model.ended:
            return
        match what:
            case "close":
                digest = model.ended if ":" in model.ended else digest_of(model.content)
                answer = self._ask(model, model.client.close(digest))
                assert answer.status == (201 if ":" in model.ended else 404)
                return
            case "other":
                answer = self._ask(model, model.client.close(digest_of(b"other")))
            case "get":
                answer = self._ask(model, model.client.status())
            case "patch":
                answer = self._ask(model, model.client.patch(b"more"))
            case _:
                answer = self._ask(model, model.client.cancel())
        assert answer.refusal == (404, "BLOB_UPLOAD_UNKNOWN")

    @rule(model=sessions, name=st.sampled_from(["a/b", "a", "c"]))
    def use_of_another_repository(self, model: Model, name: str) -> None:
        """A session is of one repository."""
        if name == model.client.name:
            return
        other = Session(self._running.port, f"/v2/{name}/blobs/uploads/{model.client.id}", name)
        assert self._run(other.patch(b"more")).refusal == (404, "BLOB_UPLOAD_UNKNOWN")
        assert self._run(other.cancel()).status == 404

    # inside

    def _ask(self, model: Model, asked: Any) -> Answer:
        model.client.port = self._running.port
        answer: Answer = self._run(asked)
        return answer

    def _is_open(self, model: Model, answer: Answer) -> bool:
        if model.ended:
            assert answer.status == 404
        return not model.ended

    def _conflicts(self, model: Model, answer: Answer) -> None:
        assert answer.refusal == (416, "BLOB_UPLOAD_INVALID")
        assert answer.headers["range"] == model.range


def _run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Uploads,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # to shrink takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_some_steps() -> None:
    _run(20, 30)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_steps() -> None:
    _run(200, 50)
