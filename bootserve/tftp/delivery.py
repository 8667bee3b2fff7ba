"""One transfer's I/O: performs what its `ReadSession` decides.

A delivery owns its socket, its source, its timer and its ledger entry, and gives each back exactly
once. It has no task of its own but while it waits for a disk; everything else happens in the
loop's callbacks, none of which blocks or lets an exception out.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from enum import Enum, auto
from typing import Any

from bootserve.catalog.assets import READ_SIZE, REPLACE_BY_RENAMING, Source
from bootserve.text import as_word
from bootserve.tftp.packet import ErrorCode, MalformedPacket, data_header, encode_error, parse
from bootserve.tftp.session import Action, Finish, ReadSession, Send, SendBlocks
from bootserve.watch.ledger import End, Transfer
from bootserve.watch.liveness import SILENT_AFTER, Verdict
from bootserve.watch.quiet import QuietLog, describe

_DATAGRAMS_PER_TURN = 16
_LARGEST_DATAGRAM = 512  # of those that mean something to a transfer: ACK and ERROR
_SHORTER = "the file became shorter while it was sent"

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]


class _Sent(Enum):
    OUT = auto()
    LOST = auto()
    BUFFER_FULL = auto()


class Delivery:
    """A transfer on its way.

    Args:
        sock: connected to the client, non-blocking.
        source: what is sent.
        blksize: bytes per block, as the session has it.
        session: not started yet.
        entry: in the ledger.
        spawn: starts a task in the server's task group.
        on_end: called once, when all but ``source`` is given back.
        quiet: takes what goes wrong in here.
    """

    def __init__(
        self,
        *,
        sock: socket.socket,
        source: Source,
        blksize: int,
        session: ReadSession,
        entry: Transfer,
        spawn: Spawn,
        on_end: Callable[[], None],
        quiet: QuietLog,
    ) -> None:
        self._sock = sock
        self._source = source
        self._size = source.size
        self._blksize = blksize
        self._session = session
        self._entry = entry
        self._spawn = spawn
        self._on_end = on_end
        self._quiet = quiet
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._next = self._end = 0  # blocks that are to go out
        self._buffer = b""
        self._buffer_at = 0
        self._is_loading = False
        self._is_waiting_for_room = False
        self._was_refused = False
        self._has_ended = False

    def start(self) -> None:
        self._loop.add_reader(self._sock, self._guarded, self._receive)
        self._guarded(lambda: self._perform(self._session.start(self._loop.time())))

    @property
    def is_proven(self) -> bool:
        """Whether the client has acknowledged anything: its address is not forged."""
        return self._session.is_proven

    def look(self, now: float) -> None:
        """Note in the ledger what the client is doing."""
        is_silent = self._session.silence(now) >= SILENT_AFTER
        verdict = Verdict.SILENT if is_silent else Verdict.MOVING
        self._entry.verdict = (Verdict.STARVED if self._is_loading else verdict).value

    def take_repeat(self) -> bool:
        """Return whether an identical request is one more of that which this answers."""
        if self._session.is_proven:
            return False
        self._guarded(lambda: self._perform(self._session.repeated(self._loop.time())))
        return not self._has_ended

    def stop(self, end: End, reason: str = "", message: str = "") -> None:
        """End the transfer, and say so to the client if there is a ``message`` for it."""
        if self._has_ended:
            return
        self._has_ended = True
        if message:
            self._send(encode_error(ErrorCode.NOT_DEFINED, message))
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        if self._timer is not None:
            self._timer.cancel()
        self._entry.sent = self._session.acknowledged
        self._entry.details["blocks sent again"] = self._session.resent
        self._entry.close(end, reason)
        self._on_end()
        self._buffer = b""
        if not self._is_loading:
            self._source.close()

    def _guarded(self, step: Callable[[], None]) -> None:
        if self._has_ended:
            return
        try:
            step()
        except OSError as error:
            # Sockets' errors are dealt with where they are used: this is the medium's.
            message = "the server could not read the file"
            self.stop(End.FILE_ERROR, describe(error), message)
        except Exception as error:
            name = as_word(self._entry.name)
            self._quiet.log(logging.ERROR, "TFTP: a defect hit %s", name, error=error)
            message = "the server has failed"
            self.stop(End.SERVER_ERROR, f"internal error: {type(error).__name__}", message)

    def _receive(self) -> None:
        for _ in range(_DATAGRAMS_PER_TURN):
            try:
                datagram = self._sock.recv(_LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                self._perform(self._session.refused())
            except OSError:
                return  # the network's trouble: the timer judges it
            else:
                try:
                    packet = parse(datagram)
                except MalformedPacket:
                    continue
                self._perform(self._session.receive(packet, self._loop.time()))
            if self._has_ended:
                return

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send(datagram):
                    self._send(datagram)
                case SendBlocks(first, count):
                    self._next, self._end = first, first + count
                    self._send_blocks()
                case Finish(end, reason):
                    self.stop(end, reason)
        if self._has_ended:
            return
        self._entry.sent = self._session.acknowledged
        self._arm()
        if self._was_refused:
            self._was_refused = False
            self._perform(self._session.refused())

    def _arm(self) -> None:
        """Make sure to wake at the deadline; a timer that is too early is left and set anew then.

        So an ACK costs no timer: it only moves the deadline away.
        """
        deadline = self._session.deadline
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._guarded, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._perform(self._session.tick(now) if now >= self._session.deadline else ())

    def _send_blocks(self) -> None:
        if self._is_loading:
            return  # goes on when the bytes are there, with what is then to go out
        first, end, blksize = self._next, self._end, self._blksize
        offset = (first - 1) * blksize
        data = self._bytes(offset, min((end - 1) * blksize, self._size) - offset)
        if data is None:
            self._is_loading = True
            self._spawn(self._load)
            return
        if (end - 1) * blksize > self._size and self._source.has_changed():
            # Better no file than one of two halves: its last block stays here.
            self.stop(End.FILE_CHANGED, REPLACE_BY_RENAMING, "the file was changed, ask again")
            return
        sent = _Sent.OUT
        while self._next < end and sent is _Sent.OUT:
            at = (self._next - first) * blksize
            sent = self._send(data_header(self._next) + data[at : at + blksize])
            self._next += sent is _Sent.OUT
        count = self._next - first
        self._wait_for_room(sent is _Sent.BUFFER_FULL)
        if sent is _Sent.LOST:
            self._next = end
        is_over = sent is not _Sent.BUFFER_FULL
        self._session.went_out(count, self._loop.time(), is_over=is_over)

    def _bytes(self, offset: int, size: int) -> memoryview | None:
        """Return ``size`` bytes from ``offset`` if they can be had at once."""
        start = offset - self._buffer_at
        if start < 0 or start + size > len(self._buffer):
            self._buffer = b""
            found = self._source.read_now(offset, size) if size else b""
            if found is None:
                return None
            if len(found) < size:
                raise OSError(_SHORTER)
            return memoryview(found)
        return memoryview(self._buffer)[start : start + size]

    async def _load(self) -> None:
        """Read ahead from a slow medium, then go on sending."""
        offset = (self._next - 1) * self._blksize
        failure: Exception | None = None
        found = b""
        try:
            found = await self._source.read(offset, READ_SIZE)
        except Exception as error:
            failure = error
        finally:
            self._is_loading = False
            if self._has_ended:
                self._source.close()
        self._guarded(lambda: self._loaded(offset, found, failure))

    def _loaded(self, offset: int, found: bytes, failure: Exception | None) -> None:
        if failure is not None:
            raise failure
        if len(found) < min(READ_SIZE, self._size - offset):
            raise OSError(_SHORTER)
        self._buffer, self._buffer_at = found, offset
        if self._next < self._end:
            self._send_blocks()
        self._perform(())

    def _room(self) -> None:
        self._send_blocks()
        self._perform(())

    def _wait_for_room(self, is_needed: bool) -> None:
        if is_needed != self._is_waiting_for_room:
            self._is_waiting_for_room = is_needed
            if is_needed:
                self._loop.add_writer(self._sock, self._guarded, self._room)
            else:
                self._loop.remove_writer(self._sock)

    def _send(self, datagram: bytes) -> _Sent:
        for _ in range(2):
            try:
                self._sock.send(datagram)
            except ConnectionRefusedError:
                # The answer to an earlier datagram; the kernel reports it instead of sending this.
                self._was_refused = True
                continue
            except BlockingIOError:
                return _Sent.BUFFER_FULL
            except OSError:
                return _Sent.LOST  # no route, a full queue, a filter: the timer repairs
            return _Sent.OUT
        return _Sent.LOST
