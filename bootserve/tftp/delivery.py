"""One transfer's I/O: performs what its `ReadSession` decides.

A delivery owns its wire, its source, its timer and its ledger entry, and gives each back exactly
once. It has no task of its own but while it waits for a disk; everything else happens in the
loop's callbacks, none of which blocks or lets an exception out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from bootserve.catalog.assets import REPLACE_BY_RENAMING, Source
from bootserve.text import as_word
from bootserve.tftp.blocks import Layout, Piece, Pieces
from bootserve.tftp.packet import ErrorCode, MalformedPacket, Opcode, encode_error, parse
from bootserve.tftp.session import Action, ReadSession, Send, SendBlocks
from bootserve.tftp.wire import Sent, Wire
from bootserve.watch.ledger import SENT_AGAIN, End, Transfer
from bootserve.watch.liveness import SILENT_AFTER, Verdict
from bootserve.watch.quiet import QuietLog, describe

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]


class Delivery:
    """A transfer on its way.

    Args:
        wire: to the client.
        source: what is sent.
        layout: how it is cut into blocks, as the session has it.
        pieces: where blocks come from.
        session: not started yet.
        entry: in the ledger.
        spawn: starts a task in the server's task group.
        on_end: called once, when all but ``source`` is given back, with the way it ended.
        quiet: takes what goes wrong in here.
    """

    def __init__(
        self,
        *,
        wire: Wire,
        source: Source,
        layout: Layout,
        pieces: Pieces,
        session: ReadSession,
        entry: Transfer,
        spawn: Spawn,
        on_end: Callable[[End], None],
        quiet: QuietLog,
    ) -> None:
        self._wire = wire
        self._source = source
        self._layout = layout
        self._stride = layout.stride
        self._last = layout.last
        self._pieces = pieces
        self._session = session
        self._entry = entry
        self._spawn = spawn
        self._on_end = on_end
        self._quiet = quiet
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = 0.0
        self._next = self._end = 0  # blocks that are to go out
        self._piece: Piece | None = None
        self._is_loading = False
        self._is_waiting_for_room = False
        self._is_quiet = False
        self._has_ended = False

    def start(self) -> None:
        self._entry.meter = lambda: self._session.acknowledged
        try:
            self._wire.listen(self.take, lambda: self._step(self._refused))
        except OSError as error:
            self.stop(End.SERVER_ERROR, describe(error), "server busy, try again")
            return
        self._step(self._session.start)

    @property
    def is_proven(self) -> bool:
        """Whether the client has acknowledged anything: its address is not forged."""
        return self._session.is_proven

    @property
    def loses_bursts(self) -> bool:
        """Whether the client has dropped what it was sent at once."""
        return self._session.bursts.halvings > 0

    def is_silent(self, now: float) -> bool:
        """Whether nothing has been heard for a while that was owed to us."""
        return self._session.silence(now) >= SILENT_AFTER

    def look(self, now: float) -> None:
        """Note in the ledger what the client is doing."""
        is_silent = self.is_silent(now)
        verdict = Verdict.SILENT if is_silent else Verdict.MOVING
        self._entry.details[SENT_AGAIN] = self._session.resent
        self._entry.look(Verdict.STARVED if self._is_loading else verdict, now)

    def take_repeat(self) -> bool:
        """Return whether an identical request is one more of that which this answers."""
        if self._session.is_begun_anew(time.monotonic()):
            return False
        self._step(self._session.repeated)
        return not self._has_ended

    def take(self, buffer: bytearray | bytes, size: int) -> bool:
        """Take a datagram from the client, the first ``size`` bytes of ``buffer``.

        Returns whether nothing was asked of the event loop for it.
        """
        if self._has_ended:
            return False
        self._is_quiet = True
        try:
            now = time.monotonic()
            # All but every packet is an ACK; `parse` would cost as much as the rest.
            if size >= 4 and buffer[1] == Opcode.ACK and buffer[0] == 0:
                action = self._session.acknowledge(buffer[2] << 8 | buffer[3], now)
            else:
                action = self._session.receive(parse(bytes(buffer[:size])), now)
            if type(action) is SendBlocks:
                self._send_order(action, now)
                self._settle()
            elif action is not None:
                self._perform(action, now)
        except MalformedPacket:
            pass
        except Exception as error:
            self._fail(error)
        return self._is_quiet

    def stop(self, end: End, reason: str = "", message: str = "") -> None:
        """End the transfer, and say so to the client if there is a ``message`` for it."""
        if self._has_ended:
            return
        self._has_ended = True
        self._is_quiet = False
        if message:
            self._wire.send(encode_error(ErrorCode.NOT_DEFINED, message))
        self._wire.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._entry.details[SENT_AGAIN] = self._session.resent
        self._entry.close(end, reason)
        on_end, self._on_end = self._on_end, _nothing  # which leaves the collector nothing
        on_end(end)
        self._piece = None
        if not self._is_loading:
            self._source.close()

    def _step(self, step: Callable[[float], Action | None]) -> None:
        if self._has_ended:
            return
        try:
            now = time.monotonic()
            action = step(now)
            if action is not None:
                self._perform(action, now)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, OSError):
            # Sockets' errors are dealt with where they are used: this is the medium's.
            message = "the server could not read the file"
            self.stop(End.FILE_ERROR, describe(error), message)
            return
        name = as_word(self._entry.name)
        self._quiet.log(logging.ERROR, "TFTP: a defect hit %s", name, error=error)
        message = "the server has failed"
        self.stop(End.SERVER_ERROR, f"internal error: {type(error).__name__}", message)

    def _perform(self, action: Action, now: float) -> None:
        if isinstance(action, SendBlocks):
            self._send_order(action, now)
        elif isinstance(action, Send):
            self._wire.send(action.datagram)
        else:
            self.stop(action.end, action.reason)
        self._settle()

    def _settle(self) -> None:
        """See to the timer, and to what sending has told."""
        if self._has_ended:
            return
        # A timer that is too early is left and set anew then: so an ACK costs no timer.
        if self._session.due < self._wake_at or self._timer is None:
            self._set_timer()
        if self._wire.was_refused:
            self._wire.was_refused = False
            self._step(self._refused)

    def _refused(self, _: float) -> Action | None:
        return self._session.refused()

    def _set_timer(self) -> None:
        self._is_quiet = False
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = self._session.deadline
        self._timer = self._loop.call_at(self._wake_at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._step(self._due)
        self._settle()

    def _due(self, now: float) -> Action | None:
        if now < self._session.deadline:
            return None
        if self._session.silence(now):
            # Who is silent holds no memory; what is repeated is read again.
            self._piece = None
        return self._session.tick(now)

    def _send_order(self, order: SendBlocks, now: float) -> None:
        self._next = first = order.first
        self._end = first + order.number
        self._send_blocks(now)

    def _send_blocks(self, now: float) -> None:
        if self._is_loading:
            return  # goes on when the bytes are there, with what is then to go out
        first = at = self._next
        end, stride = self._end, self._stride
        sent = Sent.OUT
        while at < end:
            piece = self._piece
            if piece is None or not piece.first <= at < piece.end:
                piece = self._piece = self._pieces.at_once(self._source, self._layout, at)
                if piece is None:
                    self._load_soon()
                    break
                self._entry.sends(now)
            if end > self._last and piece.end > self._last and self._source.has_changed():
                # Better no file than one of two halves: its last block stays here.
                message = "the file was changed, ask again"
                self.stop(End.FILE_CHANGED, REPLACE_BY_RENAMING, message)
                return
            start = piece.first
            run = piece.packets[(at - start) * stride : (end - start) * stride]
            count, sent = self._wire.send_run(run, stride)
            at += count
            if sent is not Sent.OUT:
                break
        if (sent is Sent.BUFFER_FULL) is not self._is_waiting_for_room:
            self._wait_for_room(sent is Sent.BUFFER_FULL)
        self._next = end if sent is Sent.LOST else at
        self._session.went_out(at - first, now, is_over=self._next == end)

    def _wait_for_room(self, is_needed: bool) -> None:
        self._is_waiting_for_room = is_needed
        self._is_quiet = False
        self._wire.when_writable(self._go_on if is_needed else None)

    def _go_on(self) -> None:
        self._step(self._send_more)
        self._settle()

    def _send_more(self, now: float) -> None:
        if self._next < self._end:
            self._send_blocks(now)
        elif self._is_waiting_for_room:
            self._wait_for_room(False)

    def _load_soon(self) -> None:
        self._is_loading = True
        self._is_quiet = False
        self._spawn(self._load)

    async def _load(self) -> None:
        """Have a slow medium read, then go on sending."""
        failure: Exception | None = None
        try:
            self._piece = await self._pieces.load(self._source, self._layout, self._next)
            self._entry.sends(time.monotonic())
        except Exception as error:
            failure = error
        finally:
            self._is_loading = False
            if self._has_ended:
                self._piece = None
                self._source.close()
        if failure is not None and not self._has_ended:
            self._fail(failure)
        self._go_on()


def _nothing(_: End) -> None:
    """What a delivery calls at an end that has been told."""
