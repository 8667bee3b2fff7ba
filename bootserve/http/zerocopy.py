"""Page cache to socket by sendfile(2): one transfer, driven by the event loop that it runs on.

Rules of this module:

* A turn of the loop moves at most `BURST` bytes of one transfer, and only when the socket has room;
  so a client that reads as fast as we send holds nobody up, and one that does not costs nothing.
* sendfile(2) waits for the disk if a page is not in the cache. So every range is probed first with
  ``preadv2(RWF_NOWAIT)`` (preadv2(2)), a byte here and there; where one is missing, a thread reads
  the range in, and some more ahead of it. A hot file never sees a thread.
* Of a file system that cannot be probed (FUSE, overlayfs) nothing is known, so nothing is sent
  here, and the caller copies; one that lies in memory (tmpfs) needs no probe.
* The thread has a descriptor of its own: a disk that hangs holds a thread up, and nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable
from typing import Final

from bootserve.catalog.reading import readers
from bootserve.http.room import room_of
from bootserve.linux import is_in_memory

BURST: Final = 4 << 20
"""Bytes of one transfer per turn of the loop, half a millisecond's work: with fewer, the turns
themselves are felt; with more, newcomers feel them."""

READ_AHEAD: Final = 8 << 20
"""Bytes that a disk is kept busy with beyond what is sent, once a file has proved to be cold."""

_PROBE_STEP: Final = 1 << 20
"""Bytes between two probes. Pages come and go in runs; one between two probes may be missing."""

_FIRST_PIECE: Final = 256 << 10
"""Bytes to read in, or to look at, for a client that has nothing yet, and is to have some soon."""

_SCRATCH_SIZE: Final = 256 << 10

_FRESH: Final = 1.0
"""Seconds for which pages that were there are taken to be there still."""

_ADVICE: Final = 128 << 10
"""Bytes per posix_fadvise(2): the kernel cuts one piece of advice down to its read-ahead size."""

_CANNOT_PROBE: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_CANNOT_SEND: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class FileEnded(OSError):
    """The file has become shorter than what was promised of it."""

    def __init__(self) -> None:
        super().__init__(errno.ENODATA, "it shrank while it was sent")


class FilePump:
    """One range of a file on its way to one socket. To be run once.

    Args:
        sock: descriptor of the socket; the loop's transport on it must have nothing to write, and
            be given nothing, until `run` is over.
        file: descriptor of the file, open until `run` is over.
        burst: bytes at most each time that the socket has room.
    """

    __slots__ = (
        "_advised",
        "_burst",
        "_end",
        "_file",
        "_future",
        "_is_listening",
        "_is_over",
        "_known",
        "_known_at",
        "_loop",
        "_needs_probes",
        "_offset",
        "_own_file",
        "_reading",
        "_sock",
        "_start",
        "on_begin",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: int,
        file: int,
        offset: int,
        count: int,
        *,
        burst: int = BURST,
    ) -> None:
        self._loop = loop
        self._burst = burst
        self._sock = sock
        self._file = file
        self._start = self._offset = self._known = self._advised = offset
        self._end = offset + count
        self._known_at = 0.0
        self._needs_probes = True
        self._is_listening = False
        self._is_over = False
        self._future: asyncio.Future[None] | None = None
        self._reading: asyncio.Future[None] | None = None
        self._own_file = -1
        self.on_begin: Callable[[float], None] | None = None
        """Is told when the first bytes are taken, in the loop's seconds."""

    @property
    def sent(self) -> int:
        """Bytes that the kernel has taken."""
        return self._offset - self._start

    async def run(self) -> int:
        """Send until the kernel has taken everything; return how much it has taken.

        That is less than asked for if `lose` was called, or if this kind of file cannot be sent so.
        It takes as long as the client takes.

        Raises:
            OSError: the socket or the file failed; the connection's state tells which.
            FileEnded: the file has no more bytes.
        """
        try:
            self._step()
            if not self._is_over:
                self._future = self._loop.create_future()
                await self._future
        finally:
            self._finish(None)
        return self.sent

    def lose(self) -> None:
        """The connection is gone; to be called while the descriptor of its socket is still open."""
        self._finish(None)

    def _finish(self, error: BaseException | None) -> None:
        self._is_over = True
        self._listen(False)
        self._close_own_file()
        if self._future is None:
            if error is not None:
                raise error
        elif not self._future.done():
            if error is None:
                self._future.set_result(None)
            else:
                self._future.set_exception(error)

    # --- sending -----------------------------------------------------------------------------

    def _step(self) -> int:
        """Move one burst. Called once by `run`, then whenever the socket has room."""
        try:
            if not self._know():
                return 0
            size = min(self._known - self._offset, self._burst)
            sent = os.sendfile(self._sock, self._file, self._offset, size)
        except (BlockingIOError, InterruptedError):
            self._listen(True)
            return 0
        except OSError as error:
            self._finish(None if error.errno in _CANNOT_SEND else error)
            return 0
        if self._offset == self._start and self.on_begin is not None:
            self.on_begin(self._loop.time())
        self._offset += sent
        if self._offset == self._end:
            self._finish(None)
        elif sent == 0:
            self._finish(FileEnded())
        else:
            self._listen(True)
        return sent

    def _listen(self, wanted: bool) -> None:
        if wanted and not self._is_listening:
            try:
                room_of(self._loop).watch(self._sock, self._step)
            except OSError:
                # No descriptor is to be had for an epoll instance; whoever copies needs none.
                self._finish(None)
                return
        elif self._is_listening and not wanted:
            room_of(self._loop).forget(self._sock)
        self._is_listening = wanted

    # --- knowing what is in the page cache ---------------------------------------------------

    def _know(self) -> bool:
        """Whether the next bytes can be sent without waiting for a disk; if not, see to it."""
        now = self._loop.time()
        if now - self._known_at > _FRESH:
            self._known = self._offset
        if self._known < self._end and self._known - self._offset < BURST // 2:
            self._probe(now)
        if self._known > self._offset:
            return True
        if not self._is_over:
            self._listen(False)
            self._start_reading(self._offset, min(self._offset + self._piece(), self._end))
        return False

    def _piece(self) -> int:
        return BURST if self._offset > self._start else _FIRST_PIECE

    def _probe(self, now: float) -> None:
        """Extend what is known to be in the cache, as far as it is."""
        end = min(self._offset + self._piece(), self._end)
        try:
            position = self._known
            while self._needs_probes and position < end:
                os.preadv(self._file, _one_byte, position, os.RWF_NOWAIT)
                position = min(position - position % _PROBE_STEP + _PROBE_STEP, end)
            if self._needs_probes:
                os.preadv(self._file, _one_byte, end - 1, os.RWF_NOWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in _CANNOT_PROBE:
                raise
            if not is_in_memory(self._file):
                self._finish(None)
                return
            self._needs_probes = False
        self._known = end
        self._known_at = now
        if self._offset < self._advised < min(self._end, self._offset + READ_AHEAD // 2):
            self._read_ahead()

    def _read_ahead(self) -> None:
        """The file was cold, and its disk will soon have nothing to do."""
        try:
            os.preadv(self._file, _one_byte, self._advised, os.RWF_NOWAIT)
        except OSError:
            self._start_reading(self._known, self._known)
        else:
            # From here on somebody else has read it.
            self._advised = self._offset

    # --- reading -----------------------------------------------------------------------------

    def _start_reading(self, start: int, end: int) -> None:
        """Have a thread wait for the disk; the client's socket meanwhile waits for nothing."""
        if self._is_over:
            return
        if self._reading is not None:
            # Only advice is being given; it is given soon, and then `_has_read` comes back here.
            return
        ahead = min(max(end, self._offset) + READ_AHEAD, self._end)
        advised = max(self._advised, start)
        try:
            if self._own_file < 0:
                self._own_file = os.dup(self._file)
                _own_files.add(self._own_file)
            self._reading = self._loop.run_in_executor(
                readers, _read, self._own_file, start, end, advised, ahead
            )
        except (OSError, RuntimeError):
            # No descriptor or no thread is to be had now; whoever copies needs less.
            self._finish(None)
            return
        self._advised = max(ahead, self._advised)
        self._reading.add_done_callback(lambda done: self._has_read(done, start, end))

    def _has_read(self, done: asyncio.Future[None], start: int, end: int) -> None:
        self._reading = None
        error = done.exception()
        if self._is_over:
            self._close_own_file()
            return
        if error is not None:
            self._finish(error)
            return
        if start < end:
            self._known = end
            self._known_at = self._loop.time()
        if not self._is_listening:
            self._step()

    def _close_own_file(self) -> None:
        if self._own_file >= 0 and self._reading is None:
            _own_files.discard(self._own_file)
            os.close(self._own_file)
            self._own_file = -1


_own_files: Final[set[int]] = set()


def own_files() -> int:
    """Descriptors that reading threads have of their own."""
    return len(_own_files)


_one_byte: Final = [bytearray(1)]


class _Scratch(threading.local):
    """Where a reading thread puts the bytes that it has no use for."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_SCRATCH_SIZE))


_scratch: Final = _Scratch()


def _read(file: int, start: int, end: int, advised: int, ahead: int) -> None:
    """Read a range into the page cache, after asking for what comes ``ahead``. In a thread.

    A copy is the only wait for a page that every file system understands.
    """
    with contextlib.suppress(OSError):
        for offset in range(advised, ahead, _ADVICE):
            os.posix_fadvise(file, offset, min(_ADVICE, ahead - offset), os.POSIX_FADV_WILLNEED)
    while start < end:
        count = os.preadv(file, [_scratch.buffer[: end - start]], start)
        if count == 0:
            return
        start += count
