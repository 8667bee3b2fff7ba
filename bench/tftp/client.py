"""A rack of TFTP clients in one process: `python -m bench.tftp.client ORDER`, both in JSON.

They do as firmware does (RFC 1350, 2347, 2348, 7440): ask with `tsize`, `blksize` and `windowsize`,
acknowledge each whole window, the end, and the last block before a gap; repeat what they have said
last when they have heard nothing for a second. What they do not do is keep what they get.
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import statistics
import struct
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import Final

from bench.tftp.datagrams import HEADER, Inbox
from bench.tftp.order import Order, Outcome

RRQ, DATA, ACK, ERROR, OACK = 1, 3, 4, 5, 6
_DEFAULT_BLKSIZE: Final = 512
_TURN: Final = 0.1
"""Seconds between two looks at the clock for those that hear nothing."""
_RECEIVE_BUFFER: Final = 1 << 20
"""Bytes for each client: what is lost is to be the server's doing, not ours."""

# The headers of all blocks in a row, twice over: a batch that is in order is a slice of it.
_HEADERS: Final = b"".join(struct.pack("!HH", DATA, number) for number in range(65536)) * 2


class _Transfer:
    """One client and its file."""

    def __init__(self, rack: _Rack, now: float) -> None:
        order = rack.order
        self._rack = rack
        self._order = order
        self.began = self.heard = self.advanced = self.said_at = now
        self._blksize, self._window = _DEFAULT_BLKSIZE, 1
        self._next = 1  # the block that is expected, counted without end
        self._unanswered = 0
        self._gap_at = 0
        self.bytes = 0
        self.is_over = False
        self._is_connected = False
        self.sock: Final = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if rack.is_single:
            timeval = struct.pack("ll", 0, int(min(_TURN, order.repeat_after) * 1e6))
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        else:
            self.sock.setblocking(False)
        words = [order.name, "octet", "tsize", "0", "blksize", str(order.blksize)]
        if order.windowsize > 1:
            words += ["windowsize", str(order.windowsize)]
        self._said = struct.pack("!H", RRQ) + "".join(f"{word}\0" for word in words).encode()
        self.sock.sendto(self._said, (order.host, order.port))

    def take(self, now: float, *, is_waiting: bool) -> None:
        """Take what has come."""
        if not self._is_connected:
            self._take_first(now, is_waiting=is_waiting)
            return
        inbox = self._rack.inbox
        try:
            count = inbox.receive(self.sock.fileno(), is_waiting=is_waiting)
        except OSError as error:
            self._fail(error.strerror or str(error), now)
            return
        if not count:
            return
        lengths = inbox.lengths(count)
        place = HEADER * (self._next & 0xFFFF)
        is_whole = self._blksize == self._order.blksize
        is_whole = is_whole and sum(lengths) == count * (HEADER + self._blksize)
        if is_whole and inbox.headers.startswith(_HEADERS[place : place + HEADER * count]):
            self._advance(count, self._blksize * count, now)
            if self._rack.sha is not None:
                self._rack.sha.update(memoryview(inbox.payloads)[: self._blksize * count])
            if self._unanswered >= self._window:
                self._acknowledge(now)
            return
        for index, length in enumerate(lengths):
            kind, number = struct.unpack_from("!HH", inbox.headers, HEADER * index)
            start = index * self._order.blksize
            payload = bytes(inbox.payloads[start : start + length - HEADER])
            self._take_one(kind, number, payload, now)
            if self.is_over:
                return

    def _take_first(self, now: float, *, is_waiting: bool) -> None:
        """The first answer comes from the port that the transfer has from now on."""
        flags = 0 if is_waiting else socket.MSG_DONTWAIT
        try:
            datagram, peer = self.sock.recvfrom(HEADER + self._order.blksize, flags)
        except BlockingIOError:
            return
        self.sock.connect(peer)
        self._is_connected = True
        kind, number = struct.unpack_from("!HH", datagram)
        if kind == OACK:
            words = datagram[2:].decode("latin-1").split("\0")
            terms = {
                key.lower(): value for key, value in zip(words[::2], words[1::2], strict=False)
            }
            self._blksize = int(terms.get("blksize", _DEFAULT_BLKSIZE))
            self._window = int(terms.get("windowsize", 1))
            self._rack.agree(self._blksize, self._window)
            self._acknowledge(now)
        else:
            self._rack.agree(self._blksize, self._window)
            self._take_one(kind, number, datagram[HEADER:], now)

    def _take_one(self, kind: int, number: int, payload: bytes, now: float) -> None:
        if kind == ERROR:
            text = payload.partition(b"\0")[0].decode(errors="replace")
            self._fail(f"ERROR {number}: {text}", now)
        elif kind == OACK:
            self._acknowledge(now)  # ours was lost
        elif kind == DATA and number == self._next & 0xFFFF:
            self._advance(1, len(payload), now)
            if self._rack.sha is not None:
                self._rack.sha.update(payload)
            if len(payload) < self._blksize:
                self._acknowledge(now)
                self._end(now, "" if self.bytes == self._order.size else "another length")
            elif self._unanswered >= self._window:
                self._acknowledge(now)
        elif kind == DATA:
            self.heard = now
            if (number - self._next) & 0xFFFF < 0x8000:
                self._rack.outcome.gaps += self._gap_at != self._next
            else:
                self._rack.outcome.duplicates += 1
            # Once for each block that is missing: with more, some servers would send it as often.
            if self._gap_at != self._next:
                self._gap_at = self._next
                self._acknowledge(now)

    def _advance(self, blocks: int, count: int, now: float) -> None:
        self._next += blocks
        self._unanswered += blocks
        self.bytes += count
        self.heard = self.advanced = now

    def _acknowledge(self, now: float) -> None:
        self._unanswered = 0
        self._say(struct.pack("!HH", ACK, (self._next - 1) & 0xFFFF), now)

    def _say(self, packet: bytes, now: float) -> None:
        self._said = packet
        self.said_at = now
        try:
            if self._is_connected:
                self.sock.send(packet)
            else:
                self.sock.sendto(packet, (self._order.host, self._order.port))
        except BlockingIOError:
            pass  # lost, as on a wire
        except OSError as error:
            self._fail(error.strerror or str(error), now)

    def look(self, now: float) -> None:
        """See whether it is time to say something again, or to give up."""
        if now - self.advanced > self._order.patience:
            self._fail(f"no progress for {self._order.patience:g} s", now)
        elif now - max(self.heard, self.said_at) >= self._order.repeat_after:
            self._rack.outcome.repeats += 1
            self._say(self._said, now)

    def break_off(self, now: float, reason: str) -> None:
        """End it from this side."""
        if self._is_connected:
            self._say(struct.pack("!HH", ERROR, 0) + b"enough\0", now)
        if not self.is_over:
            self._end(now, reason)

    def _fail(self, reason: str, now: float) -> None:
        if not self.is_over:
            self._end(now, reason)

    def _end(self, now: float, reason: str) -> None:
        self.is_over = True
        self._rack.ended(self, now, reason)


class _Rack:
    """All clients of an order."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.outcome = Outcome()
        self.inbox = Inbox(order.blksize)
        self.is_single = order.clients == 1
        self.sha = hashlib.sha256() if order.digest else None
        self._failures = Counter[str]()
        self._durations: list[float] = []
        self._transfers: dict[int, _Transfer] = {}
        self._epoll = select.epoll()
        self._begun = 0.0

    def agree(self, blksize: int, windowsize: int) -> None:
        self.outcome.blksize, self.outcome.windowsize = blksize, windowsize

    def run(self) -> Outcome:
        spent = time.process_time()
        self._begun = time.monotonic()
        for _ in range(self.order.clients):
            self._start(time.monotonic())
        turn = self._alone if self.is_single else self._together
        looked = self._begun
        while self._transfers:
            turn()
            now = time.monotonic()
            if now - looked >= min(_TURN, self.order.repeat_after):
                looked = now
                self._look(now)
        outcome = self.outcome
        outcome.seconds = time.monotonic() - self._begun
        outcome.cpu = time.process_time() - spent
        outcome.failures = dict(self._failures)
        outcome.worst = max(self._durations, default=0)
        outcome.median = statistics.median(self._durations or [0])
        outcome.digest = self.sha.hexdigest() if self.sha else ""
        return outcome

    def _alone(self) -> None:
        for transfer in list(self._transfers.values()):
            transfer.take(time.monotonic(), is_waiting=True)

    def _together(self) -> None:
        ready = self._epoll.poll(_TURN)
        now = time.monotonic()
        for descriptor, _ in ready:
            transfer = self._transfers.get(descriptor)
            if transfer is not None:
                transfer.take(now, is_waiting=False)

    def _look(self, now: float) -> None:
        passed = now - self._begun
        for transfer in list(self._transfers.values()):
            if self.order.seconds and passed >= self.order.seconds:
                transfer.break_off(now, _ENOUGH)
            elif passed >= self.order.limit:
                transfer.break_off(now, f"not within {self.order.limit:g} s")
            else:
                transfer.look(now)

    def _start(self, now: float) -> None:
        transfer = _Transfer(self, now)
        self._transfers[transfer.sock.fileno()] = transfer
        if not self.is_single:
            self._epoll.register(transfer.sock.fileno(), select.EPOLLIN)

    def ended(self, transfer: _Transfer, now: float, reason: str) -> None:
        """Close it. Called once for each."""
        del self._transfers[transfer.sock.fileno()]
        transfer.sock.close()  # and so it leaves the epoll set
        self.outcome.bytes += transfer.bytes
        if reason == "":
            self.outcome.completed += 1
            self._durations.append(now - transfer.began)
            if now - self._begun < self.order.seconds:
                self._start(time.monotonic())
        elif reason != _ENOUGH:
            self._failures[reason] += 1


_ENOUGH: Final = "enough"


def fetch(order: Order) -> Outcome:
    """Do what is asked, in this process."""
    return _Rack(order).run()


def main() -> None:
    print(json.dumps(asdict(fetch(Order(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
