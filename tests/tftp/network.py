"""A simulated network between a `ReadSession` and a reference client. Pure; time is a number.

The client is written from RFC 1350 and RFC 7440 alone and shares no code with the server: it reads
datagrams, keeps what is in order, acknowledges full windows, the last block and whatever comes out
of order, and repeats its last packet when it has heard nothing for a while.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from bootserve.tftp.options import Terms
from bootserve.tftp.packet import parse
from bootserve.tftp.session import Action, Finish, ReadSession, Send, SendBlocks


@dataclass(frozen=True)
class Fate:
    """What the network does to one packet: a delay in seconds for each copy that arrives."""

    delays: tuple[float, ...] = (0.01,)


GOOD = Fate()


@dataclass
class Client:
    """The receiver of RFC 1350 with the windows of RFC 7440."""

    blksize: int
    windowsize: int
    expects_oack: bool
    received: bytearray = field(default_factory=bytearray)
    expected: int = 1
    in_window: int = 0
    has_all: bool = False
    last_sent: int | None = None

    def take(self, datagram: bytes) -> list[int]:
        """Return the absolute numbers of the blocks to acknowledge."""
        opcode = int.from_bytes(datagram[:2])
        if opcode == 6:
            return self._ack(0) if self.expected == 1 else []
        assert opcode == 3
        if self.expects_oack and self.last_sent is None:
            return []  # a block of a transfer that is not agreed on
        number = int.from_bytes(datagram[2:4])
        if self.has_all or number != self.expected % 65536:
            self.in_window = 0
            return self._ack(self.expected - 1)
        body = datagram[4:]
        assert len(body) <= self.blksize
        self.received += body
        self.expected += 1
        self.in_window += 1
        self.has_all = len(body) < self.blksize
        if self.has_all or self.in_window == self.windowsize:
            self.in_window = 0
            return self._ack(self.expected - 1)
        return []

    def after_silence(self) -> list[int]:
        if self.has_all or self.last_sent is None:
            return []
        self.in_window = 0
        return self._ack(self.expected - 1)

    def _ack(self, block: int) -> list[int]:
        self.last_sent = block
        return [block]


class Run:
    """One transfer through the network, to its end.

    Args:
        fate: of each datagram; told whether it comes from the client, and its index among those.
        frozen: the client does nothing from the first until the second of these times; what
            arrives meanwhile waits for it.
        duplicate_acks: after how long each ACK arrives a second time, or ``None``.
        room: how many blocks the server's socket takes at once; the rest goes out a little later.
    """

    def __init__(
        self,
        content: bytes,
        terms: Terms,
        *,
        fate: Callable[[bool, int], Fate] = lambda from_client, index: GOOD,
        patience: float = 300.0,
        frozen: tuple[float, float] = (0.0, 0.0),
        client_timeout: float = 3.0,
        duplicate_acks: float | None = None,
        room: int = 64,
    ) -> None:
        self.content = content
        self.terms = terms
        self.session = ReadSession(size=len(content), terms=terms, patience=patience, now=0.0)
        self.client = Client(terms.blksize, terms.windowsize, bool(terms.accepted))
        self.data_sent: list[tuple[float, int]] = []
        self.finish: Finish | None = None
        self.now = 0.0
        self.acked = 0  # the highest block whose ACK has reached the server
        self._fate = fate
        self._frozen = frozen
        self._client_timeout = client_timeout
        self._client_heard = 0.0
        self._duplicate_acks = duplicate_acks
        self._room = room
        self._counters = {True: itertools.count(), False: itertools.count()}
        self._order = (0, 0)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()

    def to_the_end(self) -> Finish:
        self._perform(self.session.start(0.0))
        self._at(self._client_timeout, self._client_tick)
        while self.finish is None:
            deadline = self.session.deadline
            if self._events and self._events[0][0] <= deadline:
                self.now, _, event = heapq.heappop(self._events)
                event()
            else:
                assert self.now <= deadline < float("inf"), "the session waits for nothing"
                self.now = deadline
                self._perform(self.session.tick(self.now))
        return self.finish

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._sequence), event))

    def _perform(self, action: Action | None) -> None:
        assert action is None or self.finish is None, "an action after the end"
        match action:
            case Send(datagram):
                self._carry(datagram)
            case SendBlocks(first, count):
                assert 1 <= count <= self.terms.windowsize
                assert self.acked < first
                assert first + count - 1 <= self.acked + self.terms.windowsize
                assert (first + count - 2) * self.terms.blksize <= len(self.content)
                self._order = (first, first + count)
                self._send_blocks(self._order)
            case Finish():
                self.finish = action

    def _send_blocks(self, order: tuple[int, int]) -> None:
        if order != self._order or self.finish is not None:
            return
        first, end = order
        stop = min(end, first + self._room)
        for block in range(first, stop):
            self.data_sent.append((self.now, block))
            offset = (block - 1) * self.terms.blksize
            body = self.content[offset : offset + self.terms.blksize]
            self._carry(b"\0\3" + (block % 65536).to_bytes(2) + body)
        self._order = (stop, end)
        self.session.went_out(stop - first, self.now, is_over=stop == end)
        if stop < end:
            self._at(self.now + 0.001, lambda: self._send_blocks((stop, end)))

    def _carry(self, datagram: bytes) -> None:
        for delay in self._fate(False, next(self._counters[False])).delays:
            self._at(self.now + delay, lambda: self._client_takes(datagram))

    def _client_takes(self, datagram: bytes) -> None:
        start, stop = self._frozen
        if start <= self.now < stop:
            self._at(stop, lambda: self._client_takes(datagram))
            return
        self._client_heard = self.now
        self._client_sends(self.client.take(datagram))

    def _client_tick(self) -> None:
        start, stop = self._frozen
        if start <= self.now < stop:
            self._at(stop, self._client_tick)
            return
        due = self._client_heard + self._client_timeout
        if self.now >= due:
            self._client_heard = self.now
            self._client_sends(self.client.after_silence())
            due = self.now + self._client_timeout
        self._at(due, self._client_tick)

    def _client_sends(self, blocks: list[int]) -> None:
        for block in blocks:
            copies = self._fate(True, next(self._counters[True])).delays
            for delay in copies:
                self._at(self.now + delay, lambda block=block: self._server_takes(block))  # type: ignore[misc]
                if self._duplicate_acks is not None:
                    again = self.now + delay + self._duplicate_acks
                    self._at(again, lambda block=block: self._server_takes(block))  # type: ignore[misc]

    def _server_takes(self, block: int) -> None:
        if self.finish is not None:
            return
        self.acked = max(self.acked, block)
        ack = parse(b"\0\4" + (block % 65536).to_bytes(2))
        self._perform(self.session.receive(ack, self.now))
