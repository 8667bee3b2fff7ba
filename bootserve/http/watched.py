"""What the kernel knows of one TCP connection, and what follows from it for its client.

A server's last ``send()`` says that the kernel took the bytes, not that the client has them:
megabytes may still wait in the socket. Only acknowledgements count, and they are in ``TCP_INFO``
(tcp(7), ``struct tcp_info`` in ``linux/tcp.h``) and ``SIOCOUTQ`` (tcp(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from enum import Enum, auto
from typing import Any, Final

from bootserve.http.flag import Flag
from bootserve.tcp import (
    NOTHING_KNOWN,
    TcpFacts,
    bytes_waiting,
    facts_of_connection,
    leave_to_kernel,
    watch_over,
)
from bootserve.watch.ledger import Transfer
from bootserve.watch.liveness import Limits, Peer, Sample, Verdict

FIRST_LOOK: Final = 0.002
LONGEST_LOOK: Final = 1.0
"""Seconds between two looks at a connection whose last bytes are on their way; no limit to how
many looks there are."""

TAIL_SILENCE = 60.0
TAIL_UNANSWERED = 3
"""When the process is about to leave: seconds without any ACK, and retransmissions or probes that
nobody answered, after which a tail that is wholly in the kernel is left to the kernel, which goes
on sending it. Both are needed: a paused client answers probes, but these may be minutes apart."""

_GIVEN_UP: Final = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)

_DAY: Final = 86400.0
"""Seconds of a pause after which the kernel's user timeout, which is ten of these, is lifted."""


class Delivery(Enum):
    """What became of the last byte of an answer."""

    ACKNOWLEDGED = auto()
    UNCONFIRMED = auto()
    """The kernel was given all of it, and nobody is there to acknowledge the rest: an iPXE under
    UEFI starts its kernel before its last ACKs are out."""
    LOST = auto()
    """The connection ended before the client had everything."""


class WatchedTransport(asyncio.Transport):
    """asyncio's transport of one connection, with the kernel's facts."""

    __slots__ = (
        "_acked",
        "_closing",
        "_has_timed_out",
        "_is_leaving",
        "_is_unwatched",
        "_lost",
        "_peer",
        "_socket",
        "_transport",
        "gone",
        "settled_at",
        "transfer",
    )

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        sock = transport.get_extra_info("socket")
        self._socket: socket.socket | None = sock if _is_tcp(sock) else None
        self._closing = False
        self._acked = 0
        self._lost = Flag()
        self._has_timed_out = False
        self._is_leaving = False
        self._is_unwatched = False
        self._peer: Peer | None = None
        self.transfer: Transfer | None = None
        """What is on its way now, if it is in the ledger."""
        self.settled_at = 0.0
        """When what became of the last one was known, in monotonic seconds."""
        self.gone = ""
        """Why we have given the client up, if we have."""

    # --- facts -------------------------------------------------------------------------------

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended, for either side."""
        return self._lost.is_set()

    def acked(self) -> int:
        """Bytes of the whole connection that the client has acknowledged."""
        if self._socket is not None and not self.is_lost:
            self._acked = max(self._acked, facts_of_connection(self._socket).bytes_acked)
        return self._acked

    def waiting(self) -> int:
        """Bytes written that the client has not acknowledged, in our buffer and the kernel's."""
        if self._socket is None or self.is_lost:
            return 0
        return self.get_write_buffer_size() + bytes_waiting(self._socket)

    def position(self) -> int:
        """Where in the connection's stream the next byte written will stand, as `acked` counts."""
        while True:
            acked = self.acked()
            waiting = self.waiting()
            # An ACK between the two looks would be missing from both.
            if self.acked() == acked:
                return acked + waiting

    async def delivered(self, position: int) -> Delivery:
        """Wait until the client has acknowledged everything before ``position``.

        Takes as long as the client takes, or the kernel to give it up.
        """
        pause = FIRST_LOOK
        acked = self.acked()
        while acked < position:
            if self.is_lost or self._facts().is_dead:
                verdict = Delivery.UNCONFIRMED if self._timed_out() else Delivery.LOST
                await self._notice_the_end()
                return verdict
            if self._is_left_to_the_kernel():
                return Delivery.UNCONFIRMED
            await self._lost.wait(pause)
            before, acked = acked, self.acked()
            pause = _next_look(pause, acked - before, position - acked)
        return Delivery.ACKNOWLEDGED

    def leave(self) -> None:
        """The process wants to end: from now on the kernel may be trusted with a silent tail."""
        self._is_leaving = True

    def connection_lost(self, error: Exception | None) -> None:
        """Keep the last facts; called while the socket is still open."""
        self.acked()
        if isinstance(error, OSError):
            self._note(error.errno)
        if self._socket is not None:
            # What is left of it, be it a FIN, would else be sent for as long as the user timeout.
            with contextlib.suppress(OSError):
                leave_to_kernel(self._socket)
        self._lost.set()
        # By these (the second since CPython 3.12) asyncio's transport holds itself:
        # without them all is freed now, and not when the garbage collector gets to it.
        for name in ("_read_ready_cb", "_write_ready"):
            getattr(self._transport, "__dict__", {}).pop(name, None)

    def _facts(self) -> TcpFacts:
        return NOTHING_KNOWN if self._socket is None else facts_of_connection(self._socket)

    def _timed_out(self) -> bool:
        """Whether the kernel gave a silent client up, after it had taken everything from us."""
        if not self.is_lost and self._socket is not None:
            self._note(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        return self._has_timed_out and not self._transport.get_write_buffer_size()

    def _note(self, error: int | None) -> None:
        """Tell a kernel that gave the client up from a client that left."""
        if error in _GIVEN_UP:
            self._has_timed_out = True
            self.gone = self.gone or f"the kernel has given it up: {os.strerror(error or 0)}"

    def _is_left_to_the_kernel(self) -> bool:
        return (
            self._is_leaving
            and not self._transport.get_write_buffer_size()
            and _is_silent(self._facts())
        )

    # --- liveness ----------------------------------------------------------------------------

    @property
    def peer(self) -> Peer | None:
        """What the looks so far have shown of the client; ``None`` before the first."""
        return self._peer

    def look(self, now: float, limits: Limits, *, is_owed: bool) -> Verdict:
        """Take a look at the client, note the verdict in the ledger, and return it.

        Args:
            now: monotonic seconds.
            is_owed: whether an answer to this client is on its way.
        """
        facts = self._facts()
        if self.is_lost or facts.is_dead:
            if not self.is_lost and self._socket is not None:
                self._timed_out()
                self.abort()
            return Verdict.IDLE
        sample = Sample(
            now=now,
            heard=min(facts.last_ack_ms, facts.last_data_ms) / 1000,
            # Without a route nothing goes out, and only the first of these counts the attempts.
            probes=max(facts.retransmits, facts.probes),
            total_retrans=facts.total_retrans,
            acked=facts.bytes_acked,
            waiting=self.waiting(),
            is_owed=is_owed,
        )
        if self._peer is None:
            self._peer = Peer(sample)
        verdict = self._peer.look(sample, limits)
        if self.transfer is not None:
            self.transfer.look(verdict, now)
        is_paused_for_long = verdict is Verdict.PAUSED and self._peer.stalled(now) > _DAY
        has_been_asked = facts.probes >= limits.enough_probes
        is_kernels = is_paused_for_long or facts.took_window_back or has_been_asked
        self._watch(not is_kernels, limits)
        return verdict

    def give_up(self) -> None:
        """Reset the connection: the client is gone, as far as anybody can tell."""
        assert self._peer is not None
        self.gone = (
            f"nothing acknowledged for {self._peer.silence:.0f} s,"
            f" {self._peer.unanswered} probes unanswered"
        )
        # What is in our own buffer has not even been sent.
        self._has_timed_out = not self._transport.get_write_buffer_size()
        self._reset()

    def _watch(self, wanted: bool, limits: Limits) -> None:
        """Have the kernel ask often and leave the verdict to us, or leave all to it."""
        if wanted is not self._is_unwatched or self._socket is None:
            return
        with contextlib.suppress(OSError):
            if wanted:
                watch_over(self._socket, limits.probe_interval)
            else:
                leave_to_kernel(self._socket)
            self._is_unwatched = not wanted

    # --- ends without mercy ------------------------------------------------------------------

    async def cut(self) -> None:
        """Reset the connection, and return when it is gone; what is under way is dropped."""
        self._reset()
        await self._lost.wait()

    def _reset(self) -> None:
        # Without SO_LINGER (socket(7)) the kernel would go on to deliver what it has, and the
        # client would end with more than we know of.
        if self._socket is not None and not self.is_lost:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    async def _notice_the_end(self) -> None:
        """asyncio does not always: it looks at a socket only when it wants something of it."""
        if not self.is_lost:
            self.abort()
            await self._lost.wait()


def _is_silent(facts: TcpFacts) -> bool:
    unanswered = max(facts.retransmits, facts.probes)
    return unanswered >= TAIL_UNANSWERED and facts.last_ack_ms >= TAIL_SILENCE * 1000


def _next_look(pause: float, gained: int, missing: int) -> float:
    """Seconds until a client that goes on as it did in the last pause is done with the rest."""
    guess = pause * missing / gained if gained > 0 else pause * 2
    return min(max(guess, FIRST_LOOK), LONGEST_LOOK)


def _is_tcp(sock: Any) -> bool:
    return sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6)
