# cython: language_level=3, embedsignature=True
# cython: auto_pickle=False
"""Part buffers, their pool, the running digest, the chunked decoder.

The manual of every name is `_fastio.pyi`. No OCI, no asyncio, no policy in here.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "native/sha256.h" nogil:
    ctypedef struct epoch_sha256:
        uint32_t h[8]
        uint64_t length
        uint8_t pending[64]
    ctypedef void (*epoch_sha256_blocks)(uint32_t *h, const uint8_t *data, size_t blocks)
    void epoch_sha256_setup()
    const char *epoch_sha256_implementation()
    void epoch_sha256_init(epoch_sha256 *ctx)
    void epoch_sha256_update(epoch_sha256 *ctx, const void *data, size_t length)
    void epoch_sha256_final(const epoch_sha256 *ctx, uint8_t *digest)
    epoch_sha256_blocks epoch_sha256_find(const char *name)

cdef extern from "native/sha256_lanes.h" nogil:
    ctypedef struct epoch_sha256_lane:
        epoch_sha256 *ctx
        const uint8_t *data
        size_t length
    int epoch_sha256_lanes_worthwhile()
    void epoch_sha256_update_lanes(epoch_sha256_lane *lanes, size_t count)

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS
    void *MAP_FAILED

cdef extern from *:
    """
    #include <sys/mman.h>
    #ifdef MADV_HUGEPAGE
    #define EPOCH_HUGEPAGE MADV_HUGEPAGE
    #else
    #define EPOCH_HUGEPAGE MADV_NORMAL
    #endif
    #include <string.h>
    /* Grow a mapping: without copying where the system can move page table entries. */
    static void *epoch_grow(void *memory, size_t old_size, size_t new_size) {
    #ifdef MREMAP_MAYMOVE
        return mremap(memory, old_size, new_size, MREMAP_MAYMOVE);
    #else
        void *grown = mmap(NULL, new_size, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (grown == MAP_FAILED) return grown;
        memcpy(grown, memory, old_size);
        munmap(memory, old_size);
        return grown;
    #endif
    }
    """
    int EPOCH_HUGEPAGE
    void *epoch_grow(void *memory, size_t old_size, size_t new_size) nogil

cdef extern from *:
    """
    #include <time.h>
    /* Nanoseconds of CPU that this thread has had. */
    static unsigned long long epoch_cpu_clock(void) {
        struct timespec now;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        return now.tv_sec * 1000000000ull + now.tv_nsec;
    }
    """
    uint64_t epoch_cpu_clock() nogil

epoch_sha256_setup()

cdef size_t HUGE_PAGE = 2 * 1024 * 1024
cdef size_t PAGE = 4096
cdef Py_ssize_t GIL_THRESHOLD = 2048  # below it, releasing the GIL costs more than the hash

cdef Py_ssize_t _live_buffers = 0
cdef Py_ssize_t _live_views = 0

cdef uint64_t TIMED_EACH = 1024 * 1024  # reading the clock is a system call
cdef uint64_t _hash_untimed = 0         # bytes since a piece was timed; only with the GIL held
cdef double _hash_time = 0              # nanoseconds; only with the GIL held


def live_buffers():
    return _live_buffers


def live_views():
    return _live_views


# ---- the running digest ----------------------------------------------------------------------

def hash_seconds():
    return _hash_time / 1e9


cdef uint64_t hash_stands_for(Py_ssize_t length) noexcept:
    """For how many bytes a piece of `length` is to be timed; 0: it is not."""
    global _hash_untimed
    cdef uint64_t untimed = _hash_untimed + length
    _hash_untimed = 0 if untimed >= TIMED_EACH else untimed
    return untimed - _hash_untimed


cdef uint64_t hash_piece(
    epoch_sha256 *ctx, const uint8_t *data, Py_ssize_t length, bint timed
) noexcept nogil:
    """Hash; returns the nanoseconds if they are to be taken."""
    cdef uint64_t began = epoch_cpu_clock() if timed else 0
    epoch_sha256_update(ctx, data, length)
    return epoch_cpu_clock() - began if timed else 0


def sha256_implementation():
    return epoch_sha256_implementation().decode()


def sha256_blocks(str implementation, bytes state, const uint8_t[::1] data, /):
    cdef epoch_sha256_blocks blocks = epoch_sha256_find(implementation.encode())
    cdef uint32_t h[8]
    cdef Py_ssize_t i
    if len(state) != 32 or data.shape[0] % 64:
        raise ValueError("a state of 32 bytes and whole blocks of 64 bytes are needed")
    if blocks == NULL:
        return None
    for i in range(8):
        h[i] = int.from_bytes(state[4 * i:4 * i + 4], "big")
    if data.shape[0]:
        blocks(h, &data[0], data.shape[0] // 64)
    return b"".join([int(h[i]).to_bytes(4, "big") for i in range(8)])


@cython.final
cdef class Sha256:
    cdef epoch_sha256 ctx

    def __cinit__(self, bytes state=None):
        cdef Py_ssize_t i
        epoch_sha256_init(&self.ctx)
        if state is None:
            return
        if len(state) < 40:
            raise ValueError("not an exported SHA-256 state: too short")
        cdef uint64_t length = int.from_bytes(state[:8], "big")
        if <uint64_t> (len(state) - 40) != length % 64:
            raise ValueError("not an exported SHA-256 state: its length does not fit")
        if length >> 61:
            raise ValueError("not an exported SHA-256 state: no message has 2**64 bits")
        self.ctx.length = length
        for i in range(8):
            self.ctx.h[i] = int.from_bytes(state[8 + 4 * i:12 + 4 * i], "big")
        for i in range(len(state) - 40):
            self.ctx.pending[i] = state[40 + i]

    @property
    def length(self):
        return self.ctx.length

    @cython.cdivision(True)  # a piece that stands for any bytes has some
    cdef void hash(self, const uint8_t *data, Py_ssize_t length) noexcept:
        global _hash_time
        cdef uint64_t stands_for = hash_stands_for(length), took
        if length >= GIL_THRESHOLD:
            with nogil:
                took = hash_piece(&self.ctx, data, length, stands_for != 0)
        else:
            took = hash_piece(&self.ctx, data, length, stands_for != 0)
        if stands_for:
            _hash_time += <double> took * stands_for / length

    def update(self, data, /):
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.hash(<const uint8_t *> view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    def digest(self):
        cdef uint8_t out[32]
        epoch_sha256_final(&self.ctx, out)
        return (<char *> out)[:32]

    def hexdigest(self):
        return self.digest().hex()

    def export_state(self):
        cdef Py_ssize_t i
        head = int(self.ctx.length).to_bytes(8, "big")
        chain = b"".join([int(self.ctx.h[i]).to_bytes(4, "big") for i in range(8)])
        return head + chain + (<char *> self.ctx.pending)[:self.ctx.length % 64]


# ---- part buffers and their pool --------------------------------------------------------------

cdef uint8_t *map_memory(size_t size) except NULL:
    """Anonymous memory; from 2 MiB on it is aligned to huge pages and advised to use them."""
    global _live_buffers
    cdef size_t slack = HUGE_PAGE if size >= HUGE_PAGE else 0
    cdef uint8_t *base = <uint8_t *> mmap(
        NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    cdef uint8_t *start
    cdef size_t before
    if base == <uint8_t *> MAP_FAILED:
        raise MemoryError(f"the kernel refused {size} bytes for a part buffer")
    start = base
    if slack:
        before = (HUGE_PAGE - <uintptr_t> base % HUGE_PAGE) % HUGE_PAGE
        start = base + before
        if before:
            munmap(base, before)
        if slack - before:
            munmap(start + size, slack - before)
        madvise(start, size, EPOCH_HUGEPAGE)  # a hint; where it is refused, small pages serve
    _live_buffers += 1
    return start


cdef Py_ssize_t whole_pages(Py_ssize_t size) noexcept:
    """Rounded up; what is above the last whole page that can be counted is rounded down."""
    cdef Py_ssize_t page = PAGE, most = PY_SSIZE_T_MAX // page
    return (size // page + (size % page != 0 and size // page < most)) * page


cdef void unmap_memory(uint8_t *memory, size_t size) noexcept:
    global _live_buffers
    munmap(memory, size)
    _live_buffers -= 1


cdef struct _Free:
    uint8_t *memory
    Py_ssize_t size


@cython.final
@cython.no_gc_clear
cdef class Pool:
    cdef readonly Py_ssize_t budget
    cdef readonly Py_ssize_t lent       # bytes in the hands of PartBuffers
    cdef readonly Py_ssize_t kept       # bytes in `free`
    cdef readonly Py_ssize_t lent_count
    cdef object on_free
    cdef _Free *free                    # the hottest last; no Python objects, see __dealloc__
    cdef Py_ssize_t free_count
    cdef Py_ssize_t free_room

    def __cinit__(self, Py_ssize_t budget, on_free=None):
        self.budget = budget
        self.on_free = on_free

    def __dealloc__(self):
        # The collector may have emptied whatever Python objects we had.
        self.unmap(PY_SSIZE_T_MAX)
        free(self.free)

    def lend(self, Py_ssize_t size, Py_ssize_t capacity, Py_ssize_t window, Py_ssize_t now=-1, /):
        cdef PartBuffer part
        cdef uint8_t *memory
        if not 0 < capacity <= size or window <= 0 or now == 0 or now > size:
            raise ValueError("a part buffer needs 0 < capacity <= size and a window above 0")
        if size <= self.budget:
            size = whole_pages(size)
        if size > self.budget:
            raise ValueError(f"{size} bytes can never be lent from a budget of {self.budget}")
        now = size if now < 0 else whole_pages(now)
        if now > self.budget - self.lent:
            return None
        memory = self.take(now)
        part = PartBuffer.__new__(PartBuffer)
        part.pool = self
        part.memory = memory
        part.mapped = part.lent_size = now
        part.full_size = size
        part.capacity = capacity
        part.window = window
        self.lent += now
        self.lent_count += 1
        return part

    cdef uint8_t *take(self, Py_ssize_t size) except NULL:
        cdef Py_ssize_t at = self.free_count - 1
        cdef uint8_t *memory
        while at >= 0 and self.free[at].size != size:
            at -= 1
        if at >= 0:
            memory = self.free[at].memory
            self.forget(at, 1)
            self.kept -= size
            return memory
        self.make_room(size)
        return map_memory(size)

    cdef void forget(self, Py_ssize_t at, Py_ssize_t count) noexcept:
        """Take entries out of the list of free memory."""
        self.free_count -= count
        memmove(self.free + at, self.free + at + count, (self.free_count - at) * sizeof(_Free))

    cdef void make_room(self, Py_ssize_t more) noexcept:
        """Unmap of the free memory what is in the way."""
        cdef Py_ssize_t excess = more - (self.budget - self.lent - self.kept)
        if excess > 0:
            self.unmap(excess)

    cdef void take_back(self, uint8_t *memory, Py_ssize_t size, bint keep) noexcept:
        self.lent -= size
        self.lent_count -= 1
        if keep and self.has_entry():
            self.kept += size
            self.free[self.free_count].memory = memory
            self.free[self.free_count].size = size
            self.free_count += 1
        else:
            unmap_memory(memory, size)

    cdef bint has_entry(self) noexcept:
        """Make room for one more in the list of free memory; False where there is none."""
        cdef Py_ssize_t room
        cdef _Free *larger
        if self.free_count == self.free_room:
            room = 2 * self.free_room + 16
            larger = <_Free *> realloc(self.free, room * sizeof(_Free))
            if larger == NULL:
                return False
            self.free, self.free_room = larger, room
        return True

    cdef void give_back(self, uint8_t *memory, Py_ssize_t size, bint keep) noexcept:
        self.take_back(memory, size, keep)
        self.call_on_free()

    cdef void call_on_free(self) noexcept:
        """What it raises goes to `sys.unraisablehook`: whoever gives back goes on giving back."""
        if self.on_free is not None:
            self.on_free()

    def trim(self, Py_ssize_t most=PY_SSIZE_T_MAX, /):
        self.unmap(most)

    cdef void unmap(self, Py_ssize_t most) noexcept:
        cdef Py_ssize_t count = 0, size = 0
        while count < self.free_count and size < most:
            unmap_memory(self.free[count].memory, self.free[count].size)
            size += self.free[count].size
            count += 1
        self.kept -= size
        if count:  # else there may be no list yet, and memmove takes no NULL
            self.forget(0, count)


@cython.final
@cython.no_gc_clear  # the memory goes back to the pool even from a cycle of garbage
@cython.freelist(32)
cdef class PartBuffer:
    cdef Pool pool                      # lender
    cdef uint8_t *memory                # lent by the pool until `views` is 0 after release()
    cdef readonly Py_ssize_t mapped     # bytes at `memory`
    cdef Py_ssize_t lent_size           # bytes mapped when it was lent
    cdef Py_ssize_t full_size           # the most that will be mapped
    cdef readonly Py_ssize_t capacity   # bytes that may be filled, at most `full_size`
    cdef readonly Py_ssize_t filled
    cdef readonly Py_ssize_t views      # buffer exports that are not released
    cdef public Py_ssize_t window
    cdef bint released

    @property
    def room(self):
        return self.capacity - self.filled

    def __len__(self):
        return max(0, min(self.window, min(self.capacity, self.mapped) - self.filled))

    def __getbuffer__(self, Py_buffer *view, int flags):
        global _live_views
        if self.released:
            raise BufferError("this part buffer has been given back")
        if flags & PyBUF_WRITABLE:
            PyBuffer_FillInfo(view, self, self.memory + self.filled, len(self), 0, flags)
        else:
            PyBuffer_FillInfo(view, self, self.memory, self.filled, 1, flags)
        self.views += 1
        _live_views += 1

    def __releasebuffer__(self, Py_buffer *view):
        global _live_views
        self.views -= 1
        _live_views -= 1
        if self.released and self.views == 0:
            self.hand_over()

    cdef void check_room(self, Py_ssize_t count) except *:
        if self.released:
            raise BufferError("this part buffer has been given back")
        if count < 0 or count > min(self.capacity, self.mapped) - self.filled:
            raise ValueError(f"{count} bytes do not fit: {self.capacity - self.filled} have room")

    def advance(self, Py_ssize_t count, /):
        self.check_room(count)
        self.filled += count

    def advance_hashed(self, Py_ssize_t count, Sha256 digest not None, /):
        self.check_room(count)
        digest.hash(self.memory + self.filled, count)
        self.filled += count

    @property
    def shrunk(self):
        return self.mapped < self.full_size

    def shrink(self):
        cdef Py_ssize_t size = max(<Py_ssize_t> PAGE, whole_pages(self.filled))
        if self.released or self.views or size == self.mapped:
            return False
        munmap(self.memory + size, self.mapped - size)
        self.pool.lent -= self.mapped - size
        self.mapped = size
        self.pool.call_on_free()
        return True

    def grow(self, Py_ssize_t size=PY_SSIZE_T_MAX, /):
        cdef Py_ssize_t more
        cdef uint8_t *memory
        size = self.full_size if size > self.full_size else whole_pages(size)
        more = size - self.mapped
        if self.released or self.views:
            raise BufferError("only a buffer that is lent, without views, can grow")
        if more <= 0:
            return True
        if more > self.pool.budget - self.pool.lent:
            return False
        self.pool.make_room(more)
        memory = <uint8_t *> epoch_grow(self.memory, self.mapped, size)
        if memory == <uint8_t *> MAP_FAILED:
            raise MemoryError(f"the kernel refused {more} bytes for a part buffer")
        self.memory = memory
        self.mapped = size
        self.pool.lent += more
        return True

    cdef bint worth_keeping(self) noexcept:
        """Whether the memory is as good as what would be mapped anew in its size."""
        if self.mapped != self.lent_size and self.mapped != self.full_size:
            return False
        return self.mapped < <Py_ssize_t> HUGE_PAGE or <uintptr_t> self.memory % HUGE_PAGE == 0

    def release(self):
        if self.released:
            return
        self.released = True
        if self.views == 0:
            self.hand_over()

    cdef void hand_over(self) noexcept:
        cdef uint8_t *memory = self.memory
        cdef bint keep = self.worth_keeping()
        self.memory = NULL
        if memory != NULL:
            self.pool.give_back(memory, self.mapped, keep)

    def __dealloc__(self):
        # Views hold a reference, so none is out here; only a forgotten release() ends up here. The
        # collector may be at work, so no Python code is run: nobody is told.
        if self.memory != NULL and self.pool is not None:
            self.pool.take_back(self.memory, self.mapped, self.worth_keeping())


# ---- hashing later, in another thread, or side by side -----------------------------------------

def lanes_worthwhile():
    return epoch_sha256_lanes_worthwhile()


@cython.final
cdef class _Piece:
    """Bytes in one part that wait to be hashed. Counts as a view of it until `drop`."""
    cdef PartBuffer part
    cdef const uint8_t *data
    cdef Py_ssize_t length
    cdef bint hashed

    cdef void drop(self) noexcept:
        global _live_views
        self.part.views -= 1
        _live_views -= 1
        if self.part.released and self.part.views == 0:
            self.part.hand_over()


cdef _Piece new_piece(PartBuffer part, const uint8_t *data, Py_ssize_t length):
    global _live_views
    cdef _Piece piece = _Piece.__new__(_Piece)
    piece.part = part
    piece.data = data
    piece.length = length
    part.views += 1
    _live_views += 1
    return piece


@cython.final
cdef class HashQueue:
    cdef readonly Sha256 digest
    cdef list coming                # Pieces; the last one may still grow
    cdef list taken                 # Pieces that are to be hashed, or have been; see `take`
    cdef readonly Py_ssize_t waiting
    cdef readonly Py_ssize_t held
    cdef readonly Py_ssize_t part_size
    cdef readonly dict midstates
    cdef Py_ssize_t views           # Pieces in both lists; also known when the lists are gone
    cdef bint hashing               # `taken` is another thread's, or about to be read

    def __cinit__(self, Sha256 digest not None, Py_ssize_t part_size=0):
        self.digest = digest
        self.coming = []
        self.taken = []
        self.part_size = part_size
        self.midstates = {}

    def __dealloc__(self):
        # Its parts would stay lent, and nothing would show why. Goes to `sys.unraisablehook`.
        assert self.views == 0, f"a HashQueue is gone with {self.views} views of parts"

    cdef int check_idle(self) except -1:
        if self.hashing:
            raise RuntimeError("what was taken is being hashed")
        return 0

    cdef int begin_hashing(self) except -1:
        self.check_idle()
        self.hashing = True
        return 0

    cdef int drop(self, list pieces) except -1:
        cdef _Piece piece
        self.views -= len(pieces)
        for piece in pieces:
            piece.drop()
        return 0

    def add(self, PartBuffer part not None, Py_ssize_t count, /):
        cdef _Piece piece = None
        part.check_room(count)
        cdef const uint8_t *data = part.memory + part.filled
        if self.coming:
            piece = self.coming[len(self.coming) - 1]
        # One part may begin where another ends.
        if piece is None or piece.part is not part or piece.data + piece.length != data:
            piece = new_piece(part, data, 0)
            self.coming.append(piece)
            self.views += 1
        piece.length += count
        part.filled += count
        self.waiting += count

    def note(self):
        self.keep_midstate()

    cdef int keep_midstate(self) except -1:
        cdef uint64_t length = self.digest.ctx.length
        if self.part_size and length and length % self.part_size == 0:
            self.midstates[length] = self.digest.export_state()
        return 0

    def take(self, Py_ssize_t most=PY_SSIZE_T_MAX, /):
        cdef _Piece piece
        cdef Py_ssize_t left = most
        self.check_idle()
        while self.coming and left > 0:
            piece = self.coming[0]
            if piece.length > left:
                self.taken.append(new_piece(piece.part, piece.data, left))
                self.views += 1
                piece.data += left
                piece.length -= left
                left = 0
            else:
                self.taken.append(self.coming.pop(0))
                left -= piece.length
        self.held += most - left
        self.waiting -= most - left

    def hash(self):
        cdef _Piece piece
        self.begin_hashing()
        try:
            for piece in self.taken:
                if not piece.hashed:
                    piece.hashed = True
                    self.digest.hash(piece.data, piece.length)
                    self.keep_midstate()  # a piece ends at the end of its part, if not before
        finally:
            self.hashing = False

    def release(self):
        cdef list pieces = self.taken
        self.check_idle()
        self.taken = []
        self.held = 0
        self.drop(pieces)

    def clear(self):
        cdef list pieces = self.coming
        self.coming = []
        self.waiting = 0
        self.drop(pieces)


def hash_together(list queues, /):
    global _hash_time
    cdef HashQueue queue
    cdef _Piece piece
    cdef uint64_t began
    cdef size_t count
    cdef Py_ssize_t at = 0, begun = 0
    cdef bint more = True
    cdef epoch_sha256_lane *lanes = <epoch_sha256_lane *> malloc(
        max(1, len(queues)) * sizeof(epoch_sha256_lane))
    if lanes == NULL:
        raise MemoryError("no memory for the lanes")
    began = epoch_cpu_clock()
    try:
        for queue in queues:
            queue.begin_hashing()
            begun += 1
        while more:  # the pieces of a queue one after another
            more = False
            count = 0
            for queue in queues:
                if at < len(queue.taken):
                    more = True
                    piece = queue.taken[at]
                    if not piece.hashed:
                        piece.hashed = True
                        lanes[count].ctx = &queue.digest.ctx
                        lanes[count].data = piece.data
                        lanes[count].length = piece.length
                        count += 1
            at += 1
            with nogil:
                epoch_sha256_update_lanes(lanes, count)
            for queue in queues:
                queue.keep_midstate()
    finally:
        for queue in queues[:begun]:
            queue.hashing = False
        free(lanes)
    _hash_time += <double> (epoch_cpu_clock() - began)


def fill(buffer, data, /):
    cdef Py_buffer target, source
    cdef Py_ssize_t count
    PyObject_GetBuffer(buffer, &target, PyBUF_WRITABLE)
    try:
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            count = min(target.len, source.len)
            memcpy(target.buf, source.buf, count)
        finally:
            PyBuffer_Release(&source)
    finally:
        PyBuffer_Release(&target)
    return count


# ---- Transfer-Encoding: chunked ----------------------------------------------------------------

cdef enum ChunkState:
    SIZE_FIRST      # the first digit of a chunk size
    SIZE            # further digits, or what ends them
    EXTENSION       # from ';' to CR
    SIZE_LF
    DATA
    DATA_CR
    DATA_LF
    TRAILER_FIRST   # the first byte of a trailer line
    TRAILER
    TRAILER_LF
    END_LF
    DONE
    BROKEN


@cython.final
cdef class ChunkedDecoder:
    cdef ChunkState state
    cdef uint64_t left                  # of the chunk size being read, or of the chunk's data
    cdef int digits                     # of the chunk size being read
    cdef readonly uint64_t total
    cdef uint64_t limit
    cdef Py_ssize_t overhead            # how many more bytes of extensions and trailers may come

    def __cinit__(self, uint64_t limit, Py_ssize_t overhead=16384):
        self.state = SIZE_FIRST
        self.limit = limit
        self.overhead = overhead

    @property
    def done(self):
        return self.state == DONE

    def feed(self, buffer, Py_ssize_t count, /):
        cdef Py_buffer view
        cdef Py_ssize_t body = 0, at
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            if count < 0 or count > view.len:
                raise ValueError("more bytes than the buffer has")
            at = self.decode(<uint8_t *> view.buf, count, &body)
            return body, (<char *> view.buf)[at:count]
        finally:
            PyBuffer_Release(&view)

    cdef Py_ssize_t decode(self, uint8_t *data, Py_ssize_t count, Py_ssize_t *body) except -1:
        """Squeeze the framing out of data[:count]; `body` bytes are left. Says where it stopped."""
        cdef Py_ssize_t at = 0, take
        while at < count and self.state != DONE:
            if self.state == DATA:
                take = count - at
                if <uint64_t> take > self.left:
                    take = self.left
                if at != body[0]:
                    memmove(data + body[0], data + at, take)
                body[0] += take
                at += take
                self.left -= take
                self.total += take
                if self.left == 0:
                    self.state = DATA_CR
            else:
                self.step(data[at])
                at += 1
        return at

    cdef int step(self, uint8_t byte) except -1:
        """One byte of framing."""
        if self.state == SIZE_FIRST or self.state == SIZE:
            return self.step_size(byte)
        if self.state == EXTENSION or self.state == TRAILER:
            if byte == 13:
                self.state = SIZE_LF if self.state == EXTENSION else TRAILER_LF
                return 0
            return self.spend(byte)
        if self.state == SIZE_LF:
            self.expect(byte, 10)
            self.state = DATA if self.left else TRAILER_FIRST
        elif self.state == DATA_CR:
            self.expect(byte, 13)
            self.state = DATA_LF
        elif self.state == DATA_LF:
            self.expect(byte, 10)
            self.state = SIZE_FIRST
            self.left = 0
            self.digits = 0
        elif self.state == TRAILER_FIRST:
            if byte == 13:
                self.state = END_LF
            else:
                self.state = TRAILER
                self.spend(byte)
        elif self.state == TRAILER_LF:
            self.expect(byte, 10)
            self.state = TRAILER_FIRST
        elif self.state == END_LF:
            self.expect(byte, 10)
            self.state = DONE
        else:
            self.fail("the body has been found malformed before")
        return 0

    cdef int step_size(self, uint8_t byte) except -1:
        cdef int digit = 0
        if 48 <= byte <= 57:
            digit = byte - 48
        elif 65 <= byte <= 70:
            digit = byte - 55
        elif 97 <= byte <= 102:
            digit = byte - 87
        elif self.state == SIZE_FIRST:
            self.fail("a chunk does not begin with its size")
        elif byte == 13:
            return self.size_known(SIZE_LF)
        elif byte == 59:
            return self.size_known(EXTENSION)
        else:
            self.fail("a chunk size is followed by something else than CR LF")
        self.digits += 1
        if self.digits > 16:
            self.fail("a chunk size has more than 16 digits")
        self.left = self.left << 4 | digit
        self.state = SIZE
        return 0

    cdef int size_known(self, ChunkState next) except -1:
        if self.left > self.limit - self.total:
            self.state = BROKEN
            raise OverflowError(f"the body is longer than {self.limit} bytes")
        self.state = next
        return 0

    cdef int spend(self, uint8_t byte) except -1:
        self.overhead -= 1
        if self.overhead < 0:
            self.fail("chunk extensions or trailers are too long")
        if byte < 32 and byte != 9 or byte == 127:
            self.fail("a control character in a chunk extension or trailer")
        return 0

    cdef int expect(self, uint8_t byte, uint8_t wanted) except -1:
        if byte != wanted:
            self.fail("a line of the chunked framing does not end with CR LF")
        return 0

    cdef int fail(self, str why) except -1:
        self.state = BROKEN
        raise ValueError(why)
