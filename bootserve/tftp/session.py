"""One read transfer as a state machine: packets and the time go in, actions come out. No I/O.

Rules of this module (RFC 1350, RFC 2347, RFC 7440):

* Blocks are counted from 1 without end; block 0 is the OACK, if there is one. On the wire their
  numbers are taken modulo 65536 (or 65535, see `Terms`). Never more than one window lies between
  the last block that is acknowledged and the last that was sent, so a number on the wire can mean
  only one block.
* An ACK of a block in flight acknowledges all up to it and the next window starts behind it. Any
  other ACK, duplicate or old, shows that the client lives and *never* causes a transmission:
  only the timer repeats anything. So no duplicate in the network can multiply (RFC 1123, section
  4.2.3.1, the Sorcerer's Apprentice).
* A window goes out in bursts, see `Bursts`: in one, as long as none is lost. A client counts the
  blocks of a window, so that one that is too much for it at once is sent in pieces, not cut short.
* The timer repeats the window once, in bursts of half the size, then only half of that burst, a
  quarter ... one block, at doubling intervals, until nothing has been heard from the client for
  ``patience``.
* A client that has not acknowledged anything may be a forged address: it gets one packet and at
  most three repetitions of it, then silence. It is the first to go when there are too many.
* The time during which a window is being read or does not fit into the socket is ours, not the
  client's: no retransmission is due before the window has gone out.

The owner calls an input, performs the action it returns, if any, and calls `tick` when `deadline`
has come. It answers `SendBlocks` by calling `went_out`, at once or later; a newer `SendBlocks`
replaces one that is not finished. After `Finish` every input returns ``None``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from bootserve.tftp.bursts import Bursts
from bootserve.tftp.options import Terms
from bootserve.tftp.packet import Ack, Error, ErrorCode, Packet, encode_oack
from bootserve.tftp.rto import RetransmissionTimer
from bootserve.watch.ledger import End

PATIENCE = 300.0
"""Seconds. Firmware that is frozen by its host or busy with itself sends nothing for minutes."""

COPIES = 1.0
"""Seconds after a client's first ACK in which its request may still come again: a network that
duplicates, or a repetition that crossed our answer. No machine is reset and asks anew so soon."""

_UNPROVEN_REPEATS = 3
_REFUSALS = 3
_NEVER = math.inf


class Send(NamedTuple):
    """Send this datagram."""

    datagram: bytes


@dataclass(slots=True)
class SendBlocks:
    """Send ``number`` blocks from block ``first`` on (counted from 1, without roll-over).

    A session has only one of these, which the next input changes.
    """

    first: int
    number: int


class Finish(NamedTuple):
    """The transfer has ended, the socket may be closed."""

    end: End
    reason: str = ""


Action = Send | SendBlocks | Finish


class ReadSession:
    """The server's side of one RRQ. Times are seconds of one monotonic clock, sizes bytes.

    Args:
        size: of what is sent.
        terms: what `negotiate` agreed to.
        patience: how long a silent client is waited for.
        now: the time.
    """

    __slots__ = (
        "_acked",
        "_ended",
        "_expiries",
        "_heard",
        "_is_measurable",
        "_is_refusal_counted",
        "_last",
        "_modulus",
        "_next",
        "_order",
        "_order_end",
        "_patience",
        "_proven_at",
        "_refusals",
        "_sent",
        "_sent_at",
        "_size",
        "_terms",
        "_timer",
        "_window_end",
        "_windowsize",
        "bursts",
        "due",
        "is_proven",
        "resent",
    )

    def __init__(self, *, size: int, terms: Terms, patience: float = PATIENCE, now: float) -> None:
        self._size = size
        self._terms = terms
        self._modulus = terms.modulus
        self._windowsize = terms.windowsize
        self._patience = patience
        self._timer = RetransmissionTimer(terms.timeout)
        # A final block is shorter than the others, if need be empty: so there is always one more.
        self._last = size // terms.blksize + 1
        self._acked = -1 if terms.accepted else 0
        self._sent = self._acked
        self._next = self._order_end = 0  # blocks ordered of the owner and not out yet
        self._order = SendBlocks(0, 0)
        self._window_end = 0  # behind the last block that may follow them without an ACK
        self._heard = now
        self._sent_at = now
        self._is_measurable = False  # block `_sent` went out only once, at `_sent_at`
        self._expiries = 0  # since the last progress
        self._refusals = 0
        self._is_refusal_counted = False
        self._ended = False
        self.due = _NEVER
        """When something is to be sent that nothing has been heard for; infinity for never."""
        self.bursts = Bursts(terms.windowsize)
        """How the client takes what comes at once."""
        self._proven_at = _NEVER
        self.is_proven = False
        """Whether the client has acknowledged anything: its address is not forged."""
        self.resent = 0
        """Blocks that went out more than once, counted as often as they did so again."""

    @property
    def deadline(self) -> float:
        """When `tick` is due, infinity after the end. May move either way with any input."""
        if self._ended:
            return _NEVER
        return min(self._heard + self._patience, self.due)

    def silence(self, now: float) -> float:
        """Seconds for which nothing has been heard that was owed to us: none while we send."""
        return 0.0 if self._is_sending else now - self._heard

    @property
    def acknowledged(self) -> int:
        """Bytes that the client is known to have."""
        return min(max(self._acked, 0) * self._terms.blksize, self._size)

    def start(self, now: float) -> Action | None:
        """Send the OACK or, without accepted options, block 1."""
        return self._first_packet(now)

    def receive(self, packet: Packet, now: float) -> Action | None:
        """Take a packet that came from the client to this transfer."""
        if isinstance(packet, Ack):
            return self.acknowledge(packet.number, now)
        if isinstance(packet, Error) and not self._ended:
            return self._client_error(packet)
        return None  # nothing a reader sends: not worth the transfer

    def acknowledge(self, number: int, now: float) -> Action | None:
        """Take an ACK; ``number`` as it is on the wire."""
        # Nothing is called in here that need not be: in lockstep there is an ACK for every block.
        if self._ended:
            return None
        acked = self._acked
        block = acked + (number - acked) % self._modulus
        if block > self._sent or (number == 0 and block > 0 and self._modulus != 65536):
            return None
        self._heard = now
        self._refusals = 0
        if block == acked:
            return None
        if self._is_measurable and block == self._sent:
            self._timer.measured(now - self._sent_at)
        elif self._expiries:
            self._timer.guessed(now - self._sent_at)
        else:
            self._timer.answered()
        windowsize = self._windowsize
        if windowsize > 1 and self.is_proven:
            self._judge_burst(block, now)
        self._acked = block
        self._expiries = 0
        if not self.is_proven:
            self.is_proven = True
            self._proven_at = now
        if block == self._last:
            return self._finish(End.COMPLETE)
        return self._window(block + 1, windowsize)

    def refused(self) -> Action | None:
        """Take it that the client's host says that its port is closed (ICMP).

        Only one refusal counts for each transmission, and only three without a sign of life
        between them end the transfer: firmware closes its port for a moment between two stages.
        """
        if self._ended or self._is_refusal_counted:
            return None
        self._is_refusal_counted = True
        self._refusals += 1
        if self._refusals < _REFUSALS:
            return None
        return self._all_but_last_ack() or self._finish(End.CLIENT_LEFT, "its port is closed")

    def repeated(self, now: float) -> Action | None:
        """Take it that the client sent its request again, and `is_begun_anew` says no.

        Who has acknowledged anything has our answer, and gets nothing for a copy. While a
        repetition of our first packet is due anyway, it is answered by that. Later it gets one
        packet: no more than what a request from a new port would cause.
        """
        if self._ended or self.is_proven:
            return None
        self._heard = now
        if self._is_sending or self.due < _NEVER:
            return None
        return self._first_packet(now)

    def is_begun_anew(self, now: float) -> bool:
        """Whether the same request once more begins another transfer, and is no copy of ours."""
        return now >= self._proven_at + COPIES

    def tick(self, now: float) -> Action | None:
        """Do what is due at ``now``."""
        if self._ended:
            return None
        if now >= self._heard + self._patience:
            return self._give_up()
        if now < self.due:
            return None
        if self._is_sending:
            return self._burst(self._order_end)
        self._timer.expired(now - self._heard if self.is_proven else _NEVER)
        self._expiries += 1
        if not self.is_proven:
            return self._first_packet(now)
        self.bursts.lost()
        size = self._windowsize if self._expiries == 1 else self.bursts.size
        return self._window(self._acked + 1, size)

    def went_out(self, count: int, now: float, *, is_over: bool) -> None:
        """Learn that ``count`` more of the blocks that were ordered are on the wire.

        ``is_over`` says that this was all of the order, or that the rest is given up as lost.
        """
        if self._ended or self._next >= self._order_end:
            return
        if count:
            again = self._sent - self._next + 1
            self._next += count
            if again > 0:
                self.resent += min(again, count)
            self._is_measurable = again < count
            if self._is_measurable:
                self._sent = self._next - 1
        if is_over:
            self._next = self._order_end
            if self._next < self._window_end:
                self.due = now + self._timer.gap
            else:
                self._transmitted(now)

    @property
    def _is_sending(self) -> bool:
        return self._next < self._window_end

    def _first_packet(self, now: float) -> Action:
        if not self._terms.accepted:
            return self._window(1, 1)
        self._is_measurable = self._sent < 0
        self._sent = 0
        self._transmitted(now)
        return Send(encode_oack(self._terms.accepted))

    def _window(self, start: int, size: int) -> SendBlocks:
        end = start + size
        if end > self._last:
            end = self._last + 1
        self._window_end = end
        return self._burst(start)

    def _burst(self, start: int) -> SendBlocks:
        end = start + self.bursts.size
        if end > self._window_end:
            end = self._window_end
        self._order_end = end
        self._next = start
        self.due = _NEVER
        order = self._order
        order.first = start
        order.number = end - start
        return order

    def _transmitted(self, now: float) -> None:
        self._sent_at = now
        self._is_refusal_counted = False
        if self.is_proven or self._expiries < _UNPROVEN_REPEATS:
            self.due = now + self._timer.interval
        else:
            self.due = _NEVER

    def _judge_burst(self, block: int, now: float) -> None:
        if self._expiries:
            if block == self._sent and self._is_sending:
                self.bursts.forgive()  # only its ACK had been lost
            return
        if block == self._window_end - 1:
            self.bursts.arrived()
        elif block == self._sent:
            return  # it answers every burst, or more
        elif now - self._sent_at > self._timer.late:
            self.bursts.lost()  # the client had to wait for what did not come
        else:
            self.bursts.torn()

    def _client_error(self, error: Error) -> Action:
        # OVMF and PXELINUX ask for tsize only to learn it: they refuse the OACK and ask again.
        is_answer_to_oack = self._acked < 0 or (
            error.code == ErrorCode.OPTIONS_REFUSED and bool(self._terms.accepted)
        )
        end = End.OPTIONS_REFUSED if is_answer_to_oack else End.CLIENT_ERROR
        return self._finish(end, f"code {error.code}: {error.message}")

    def _give_up(self) -> Action:
        if self._next < self._order_end:
            reason = f"no bytes to send for {self._patience:.0f} s"
            return self._finish(End.FILE_ERROR, reason)
        reason = f"nothing heard for {self._patience:.0f} s"
        return self._all_but_last_ack() or self._finish(End.CLIENT_SILENT, reason)

    def _all_but_last_ack(self) -> Action | None:
        has_data = self._acked >= min(1, self._last - 1)
        if self.is_proven and has_data and self._sent == self._last:
            return self._finish(End.UNCONFIRMED, "last ACK not seen")
        return None

    def _finish(self, end: End, reason: str = "") -> Finish:
        self._ended = True
        return Finish(end, reason)
