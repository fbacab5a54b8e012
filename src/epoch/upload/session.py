"""An upload session: what is known of an upload between two requests, and its form in the store.

Nothing of it is in the process. Every request that changes a session writes its next generation,
and only where no such generation is yet: of two requests that race, in whatever processes, one
wins, and the bytes of the other are in no generation.

Nothing that is read back is trusted. A generation carries a checksum; bytes that were stored aside
carry the state of the upload's own sha256 before and after them, so hashing them again proves them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any, Final

from epoch import layout
from epoch.oci.digest import Digest
from epoch.store.base import Multipart, Part

MAX_STATE: Final = 4 * 1024 * 1024
"""Bytes of a generation; 10,000 parts with long etags are about 1 MiB."""


@dataclass(frozen=True, slots=True)
class Tail:
    """Bytes after the last full part, in an object of their own."""

    key: str
    size: int
    begin: bytes | None
    """The state of the upload's sha256 before these bytes; None: they are its first."""
    end: bytes
    """The same after them."""


@dataclass(frozen=True, slots=True)
class Session:
    """One generation. `offset` is the sum of all parts and tails."""

    id: str
    """32 hex digits."""
    repository: str
    generation: int = 0
    """0 is never written: a session that nothing was sent to lives in its token alone."""
    offset: int = 0
    """Bytes received."""
    digest_state: bytes | None = None
    """Of the sha256 of these bytes (`Sha256.export_state`)."""
    part_size: int = 0
    upload_id: str | None = None
    parts: tuple[Part, ...] = ()
    """Each of `part_size` bytes, numbered from 1."""
    tails: tuple[Tail, ...] = ()
    last_part: Part | None = None
    """The tails once more, as the part that ends the object, in case nothing follows; None where
    they are too small to be worth it."""
    interrupted: bool = False
    """Whether the last request broke off, so that its client can not know `offset`."""
    closing: str = ""
    """The digest of a closing PUT whose bytes are all in here."""
    committed: str = ""
    """The digest under which the blob was stored: the session has ended."""
    cancelled: bool = False
    """Whether the client has given up: the session has ended."""
    claimed: bool = False
    """Whether a request may be writing to the multipart upload, after `parts`."""
    contended: bool = False
    """Whether such a request failed or never came to its end: what it wrote may still arrive, and
    the bytes have to be read before they become a blob."""
    verified: str = ""
    """The digest, other than sha256, that the stored bytes were found to have."""
    nonce: str = field(default="", compare=False)
    """Tells two writers of one generation apart."""
    lineage: tuple[str, ...] = field(default=(), compare=False)
    """The nonces of the last few generations before it."""

    @property
    def folder(self) -> str:
        """The prefix of all its objects."""
        return layout.upload(self.id)

    @property
    def data_key(self) -> str:
        """The key of the multipart upload."""
        return layout.upload_data(self.id)

    @property
    def alive_key(self) -> str:
        """The key of what shows that a request still receives. Beside the generations, so that one
        list tells when the session was last written to."""
        return layout.upload_alive(self.id)

    @property
    def multipart(self) -> Multipart | None:
        """The multipart upload, once a part is full."""
        return None if self.upload_id is None else Multipart(self.data_key, self.upload_id)

    @property
    def tail_size(self) -> int:
        """Bytes in tails."""
        return sum(tail.size for tail in self.tails)

    def state_key(self) -> str:
        """The key of this generation."""
        return layout.upload_state(self.id, self.generation)

    def next(self, **changes: Any) -> Session:
        """The next generation."""
        return replace(self, generation=self.generation + 1, **changes)

    def taken_over(self) -> Session:
        """As it is for the next request: one that had claimed it did not come to its end."""
        return replace(self, claimed=False, contended=True) if self.claimed else self

    def ended(self, *, committed: str = "") -> Session:
        """The last generation: committed under that digest, or cancelled."""
        return Session(
            self.id,
            self.repository,
            self.generation + 1,
            self.offset,
            committed=committed,
            cancelled=not committed,
        )

    def encode(self) -> bytes:
        """As JSON, and a line with its checksum."""
        state: dict[str, Any] = {
            "repository": self.repository,
            "offset": self.offset,
            "sha256": _hex(self.digest_state),
            "part_size": self.part_size,
            "upload_id": self.upload_id,
            "parts": [part.etag for part in self.parts],  # 10,000 of them in a few milliseconds
            "tails": [(t.key, t.size, _hex(t.begin), _hex(t.end)) for t in self.tails],
            "last_part": self.last_part
            and (self.last_part.number, self.last_part.size, self.last_part.etag),
            "interrupted": self.interrupted,
            "closing": self.closing,
            "committed": self.committed,
            "cancelled": self.cancelled,
            "claimed": self.claimed,
            "contended": self.contended,
            "verified": self.verified,
            "nonce": self.nonce,
            "lineage": self.lineage,
        }
        text = json.dumps(state, separators=(",", ":")).encode()
        return text + b"\n" + _checksum(self.id, self.generation, text)

    @classmethod
    def decode(cls, session_id: str, generation: int, data: bytes) -> Session:
        """From what `encode` made of that session and generation; ValueError for anything else."""
        text, _, checksum = data.rpartition(b"\n")
        if checksum != _checksum(session_id, generation, text):
            raise ValueError("its checksum is another one")
        state = json.loads(text)
        last = state["last_part"]
        return cls(
            id=session_id,
            repository=state["repository"],
            generation=generation,
            offset=state["offset"],
            digest_state=bytes.fromhex(state["sha256"]) or None,
            part_size=state["part_size"],
            upload_id=state["upload_id"],
            parts=tuple(
                Part(number, state["part_size"], etag)
                for number, etag in enumerate(state["parts"], 1)
            ),
            tails=tuple(
                Tail(key, size, bytes.fromhex(begin) or None, bytes.fromhex(end))
                for key, size, begin, end in state["tails"]
            ),
            last_part=Part(*last) if last else None,
            interrupted=state["interrupted"],
            closing=state["closing"],
            committed=state["committed"],
            cancelled=state["cancelled"],
            claimed=state["claimed"],
            contended=state["contended"],
            verified=state["verified"],
            nonce=state["nonce"],
            lineage=tuple(state["lineage"]),
        )

    def committed_as(self, digest: Digest) -> bool:
        """Whether it has ended as that blob."""
        return self.committed == str(digest)


def _hex(state: bytes | None) -> str:
    return "" if state is None else state.hex()


def _checksum(session_id: str, generation: int, text: bytes) -> bytes:
    hasher = hashlib.sha256(f"{session_id} {generation}\n".encode())
    hasher.update(text)
    return hasher.hexdigest().encode()
