"""Part buffers, their pool, the running digest, the chunked decoder. No OCI, no asyncio, no policy.

This stub is the manual; `tests/unit/test_stub.py` holds it to the built module. All sizes are in
bytes. Nothing here is safe for use from two threads at once, except where it says so.
"""

from collections.abc import Callable

from typing_extensions import Buffer

class Sha256:
    """A running SHA-256 (FIPS 180-4) whose state can be taken out and put back.

    The fastest implementation that the CPU has is chosen at import (`sha256_implementation`).
    """

    def __init__(self, state: bytes | None = None) -> None:
        """Begin anew, or go on from what `export_state` returned (ValueError if it is not that)."""

    @property
    def length(self) -> int:
        """Bytes hashed so far."""

    def update(self, data: Buffer, /) -> None:
        """Hash `data` (C-contiguous). The GIL is released above 2 KiB."""

    def digest(self) -> bytes:
        """The 32 bytes of the digest so far; hashing may go on."""

    def hexdigest(self) -> str:
        """The same as 64 lower-case hex digits."""

    def export_state(self) -> bytes:
        """The midstate: 8-byte length, 32-byte chaining value, the pending bytes of a block; all
        big-endian, the same on every CPU."""

def sha256_implementation() -> str:
    """`sha-ni`, `armv8` or `portable`."""

def hash_seconds() -> float:
    """CPU seconds that this process has spent hashing, of all threads together. In each MiB one
    piece is timed and stands for all of it: reading that clock is a system call."""

class PartBuffer:
    """A page-aligned piece of memory, lent by a `Pool`, that is filled from its front.

    Asked for a writable buffer it exports its unfilled tail, at most `window` bytes of it (that is
    what the kernel receives into); asked for a read-only one (`memoryview(part)`) it exports what
    is filled. While a read-only view is out, nothing more may be filled in below it; while any is
    out, the memory is not lent again.
    """

    @property
    def capacity(self) -> int:
        """How much may be filled in, as asked for when it was lent."""

    @property
    def filled(self) -> int:
        """How much is filled."""

    @property
    def room(self) -> int:
        """`capacity - filled`."""

    @property
    def views(self) -> int:
        """Exported views that are not yet released."""

    window: int
    """The most that one writable export gives."""

    def __len__(self) -> int:
        """How much a writable export gives now: uvloop asks before OpenSSL decrypts into it."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def advance(self, count: int, /) -> None:
        """`count` bytes of the tail have been written. ValueError if there is no such room."""

    def advance_hashed(self, count: int, digest: Sha256, /) -> None:
        """The same, and hash them where they lie, with the GIL released."""

    @property
    def mapped(self) -> int:
        """How much memory it has now, in whole pages: what it takes of the budget."""

    @property
    def shrunk(self) -> bool:
        """Whether it has less memory now than it was lent for."""

    def shrink(self) -> bool:
        """Give back the memory behind what is filled, down to a page; the content stays. False
        where nothing can be given back, or a view is out."""

    def grow(self, size: int = ..., /) -> bool:
        """Have `size` bytes of memory, by default all that it was lent for, never more; without
        copying. False where the budget has no room for it now."""

    def release(self) -> None:
        """Give the memory back. It goes to the pool at once, or as soon as the last view is
        released. No further use; a second call does nothing."""

class Pool:
    """The memory of all part buffers of a process, one budget for all.

    Memory comes from mmap(2), is kept for reuse, hot first, and from 2 MiB on is advised to use
    huge pages. Nothing is allocated before it is lent.
    """

    def __init__(self, budget: int, on_free: Callable[[], None] | None = None) -> None:
        """`budget`: the most that is lent and kept. `on_free()` is called whenever memory has come
        back; it must not lend. What it raises goes to `sys.unraisablehook`, and is nobody's
        error."""

    @property
    def budget(self) -> int:
        """As given."""

    @property
    def lent(self) -> int:
        """Bytes lent now, rounded up to pages."""

    @property
    def kept(self) -> int:
        """Bytes free for reuse, and not returned to the kernel."""

    @property
    def lent_count(self) -> int:
        """Buffers lent now."""

    def lend(self, size: int, capacity: int, window: int, now: int = ..., /) -> PartBuffer | None:
        """`size` bytes of memory (rounded up to pages) of which `capacity` may be filled, or None
        where the budget has no room for it now. `now`: how many of them it has at first, by default
        all; `PartBuffer.grow` adds to them.

        Memory is kept and reused by `size`, so few different ones serve best. ValueError if the
        budget never can have room; MemoryError if the kernel refuses.
        """

    def trim(self, most: int = ..., /) -> None:
        """Return free memory to the kernel, the coldest first, until it is `most` bytes, by default
        all. 16 MiB take 0.1 ms in huge pages, 1.5 ms in small ones."""

def lanes_worthwhile() -> int:
    """From how many messages on it is faster to let them wait for one another and hash them side by
    side than to hash each as it comes; 0 where this CPU cannot."""

class HashQueue:
    """Bytes in parts that one digest has yet to take, in the order in which they came.

    Counts as a view of each of their parts until they are hashed and `release` is called. All but
    `hash` are to be called from the thread that owns the pool. In this order, and then again:
    `take`, `hash`, `release`; `add` and `clear` at any time. To be emptied by `release` and `clear`
    before it goes: else an AssertionError goes to `sys.unraisablehook`.
    """

    def __init__(self, digest: Sha256, part_size: int = 0) -> None:
        """`digest`: that takes the bytes. `part_size`: see `midstates`; 0: none are kept."""

    @property
    def digest(self) -> Sha256:
        """The digest that takes them."""

    @property
    def waiting(self) -> int:
        """Bytes that were added and are not yet taken."""

    @property
    def held(self) -> int:
        """Bytes that are taken, hashed or not, whose parts are still held."""

    @property
    def part_size(self) -> int:
        """As given."""

    @property
    def midstates(self) -> dict[int, bytes]:
        """`Sha256.export_state` by `Sha256.length`, at every multiple of the part size at which a
        part ended; complete once nothing waits. About 150 bytes each."""

    def note(self) -> None:
        """Keep the midstate, if the digest is at a multiple of the part size now. `hash` and
        `hash_together` do it themselves."""

    def add(self, part: PartBuffer, count: int, /) -> None:
        """Like `part.advance(count)`; the digest takes them later."""

    def take(self, most: int = ..., /) -> None:
        """Set apart the first of the bytes that wait, at most `most`, by default all of them, for
        `hash` or `hash_together`. RuntimeError while one of these runs."""

    def hash(self) -> None:
        """Hash what was taken, with the GIL released. In any thread; RuntimeError while another one
        is at it."""

    def release(self) -> None:
        """Let go of the parts of what was hashed. RuntimeError while `hash` runs."""

    def clear(self) -> None:
        """Forget what waits."""

def hash_together(queues: list[HashQueue], /) -> None:
    """`hash` of many queues at once, side by side where that is faster. No two with one digest;
    RuntimeError where one is being hashed, or is named twice."""

def fill(buffer: Buffer, data: Buffer, /) -> int:
    """Copy as much of `data` as fits to the front of the writable `buffer`; how much that was."""

class ChunkedDecoder:
    """Strict decoder of `Transfer-Encoding: chunked` (RFC 9112, section 7.1), in place.

    Extensions are skipped, trailers are dropped; both count against `overhead`.
    """

    def __init__(self, limit: int, overhead: int = ...) -> None:
        """`limit`: the most body bytes, beyond which `feed` raises OverflowError. `overhead`: the
        most bytes of extensions, of one chunk-size line and of trailers (default 16 KiB)."""

    @property
    def done(self) -> bool:
        """Whether the last chunk and its trailers have been seen."""

    @property
    def total(self) -> int:
        """Body bytes so far."""

    def feed(self, buffer: Buffer, count: int, /) -> tuple[int, bytes]:
        """Decode the first `count` bytes of the writable `buffer`: the body bytes among them are
        moved to its front. Returns how many they are, and what came after the end of the body
        (empty before it). ValueError on a framing error, and for ever after it."""

def sha256_blocks(implementation: str, state: bytes, data: Buffer, /) -> bytes | None:
    """For tests that compare the implementations: the 32-byte chaining value after hashing whole
    blocks onto `state`, or None where this CPU does not have that implementation."""

def live_buffers() -> int:
    """Debug counter: mapped pieces of memory, lent or kept, in this process."""

def live_views() -> int:
    """Debug counter: exported views of all part buffers in this process."""
