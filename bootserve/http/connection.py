"""What the kernel knows of one TCP connection, and a close that loses nothing.

A server's last ``send()`` says that the kernel took the bytes, not that the client has them:
megabytes may still wait in the socket. Only acknowledgements count, and they are in ``TCP_INFO``
(tcp(7), ``struct tcp_info`` in ``linux/tcp.h``) and ``SIOCOUTQ`` (tcp(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Iterable
from enum import Enum, auto
from typing import Any, Final

from bootserve.catalog.lanes import UNLIMITED, Lane
from bootserve.http import lane
from bootserve.http.flag import Flag
from bootserve.http.zerocopy import BURST, FilePump
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

EXTENSION: Final = "bootserve.connection"
"""ASGI extension: ``scope["extensions"][EXTENSION]["connection"]`` is the `Connection`."""

_FIRST_LOOK = 0.002
_LONGEST_LOOK = 1.0
"""Seconds between two looks at a connection whose last bytes are on their way; no limit to how
many looks there are."""

TAIL_SILENCE = 60.0
TAIL_UNANSWERED = 3
"""When the process is about to leave: seconds without any ACK, and retransmissions or probes that
nobody answered, after which a tail that is wholly in the kernel is left to the kernel, which goes
on sending it. Both are needed: a paused client answers probes, but these may be minutes apart."""

_CLOSE: Final = b"\r\nconnection: close\r\n"

_POLITE: Final = 2.0
"""Seconds between our FIN on an idle connection and its end, in which a request that has crossed
the FIN is read and dropped: closed at once, it would be answered with a reset."""

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


class Connection(asyncio.Transport):
    """A connection of the HTTP door: asyncio's transport, with the kernel's facts and a kind close.

    `close` sends all that was written, then FIN, and closes the socket only when the client has
    acknowledged everything. A socket that is closed earlier is an orphan: the kernel gives its
    tail less patience, and drops it if the client sends anything more (RFC 9112, section 9.6).
    """

    __slots__ = (
        "_acked",
        "_closing",
        "_corked",
        "_has_timed_out",
        "_is_leaving",
        "_is_unwatched",
        "_lane",
        "_linger",
        "_loop",
        "_lost",
        "_peer",
        "_pump",
        "_socket",
        "_transport",
        "gone",
        "promise",
        "transfer",
    )

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        sock = transport.get_extra_info("socket")
        self._socket: socket.socket | None = sock if _is_tcp(sock) else None
        self._closing = False
        self._corked: bytes | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._pump: FilePump | None = None
        self._acked = 0
        self._lost = Flag()
        self._has_timed_out = False
        self._is_leaving = False
        self._is_unwatched = False
        self._peer: Peer | None = None
        self.transfer: Transfer | None = None
        """What is on its way now, if it is in the ledger."""
        self.promise = b""
        """The end of the next head, if the connection is kept; it has its blank line."""
        self.gone = ""
        """Why we have given the client up, if we have."""
        self._lane = UNLIMITED

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
        pause = _FIRST_LOOK
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
        self._has_timed_out |= isinstance(error, TimeoutError)
        self._lost.set()
        if self._pump is not None:
            self._pump.lose()
        if self._linger is not None:
            self._linger.cancel()
        # By these (the second since CPython 3.12) asyncio's transport holds itself:
        # without them all is freed now, and not when the garbage collector gets to it.
        for name in ("_read_ready_cb", "_write_ready"):
            getattr(self._transport, "__dict__", {}).pop(name, None)

    def _facts(self) -> TcpFacts:
        return NOTHING_KNOWN if self._socket is None else facts_of_connection(self._socket)

    def _timed_out(self) -> bool:
        """Whether the kernel gave a silent client up, after it had taken everything from us."""
        if not self.is_lost and self._socket is not None:
            error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._has_timed_out |= error == errno.ETIMEDOUT
        return self._has_timed_out and not self._transport.get_write_buffer_size()

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
            probes=facts.probes,
            total_retrans=facts.total_retrans,
            acked=facts.bytes_acked,
            waiting=self.waiting(),
            is_owed=is_owed,
        )
        if self._peer is None:
            self._peer = Peer(sample)
        verdict = self._peer.look(sample, limits)
        if self.transfer is not None:
            self.transfer.verdict = verdict.value
        is_paused_for_long = verdict is Verdict.PAUSED and self._peer.stalled(now) > _DAY
        self._watch(not (is_paused_for_long or facts.took_window_back), limits)
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

    # --- lanes -------------------------------------------------------------------------------

    @property
    def window(self) -> int | None:
        """Bytes that may be on their way at once, if the lane says so."""
        return self._lane.window

    def set_lane(self, wanted: Lane) -> None:
        """Hold all that is sent from now on to this lane; to be called between two answers."""
        wanted = lane.needed(wanted)
        if wanted is not self._lane and self._socket is not None and not self.is_lost:
            lane.apply(self._socket, wanted, self._lane)
            self._lane = wanted

    # --- heads -------------------------------------------------------------------------------

    def cork(self) -> None:
        """Keep what is written next until more is written, or `uncork` is called.

        The head of an answer and a small body then share a system call and a segment. ASGI asks for
        it too: a head is to be sent with the first piece of the body, not before.
        """
        self._corked = b""

    def uncork(self) -> None:
        head, self._corked = self._corked, None
        if head and not self.is_closing():
            self._transport.write(head)

    # --- files -------------------------------------------------------------------------------

    @property
    def can_sendfile(self) -> bool:
        """Whether `sendfile` works here: on plain TCP, on a loop that lets us watch the socket."""
        return (
            self._socket is not None
            and self._transport.get_extra_info("sslcontext") is None
            and can_pump(self._loop)
        )

    async def sendfile(self, file: int, offset: int, count: int) -> int:
        """Send from the page cache of an open file; return how many bytes the kernel has taken.

        They are fewer than asked for if the connection is lost, or if this kind of file cannot be
        sent so. Nothing may wait in the transport's buffer, nor be written until this returns.

        Raises:
            OSError: the file could not be read so far.
        """
        if self.is_closing() or self.is_lost:
            return 0
        assert self._socket is not None
        self._pump = FilePump(
            self._loop,
            self._socket.fileno(),
            file,
            offset,
            count,
            burst=lane.burst(self._lane, BURST),
        )
        pump = self._pump
        try:
            return await pump.run()
        except OSError:
            if not self.is_lost and not self._facts().is_dead:
                raise
            await self._notice_the_end()
            return pump.sent
        finally:
            self._pump = None

    async def _notice_the_end(self) -> None:
        """asyncio does not always: it looks at a socket only when it wants something of it."""
        if not self.is_lost:
            self.abort()
            await self._lost.wait()

    # --- closing -----------------------------------------------------------------------------

    def close(self) -> None:
        if self._closing:
            return
        self.uncork()
        self._closing = True
        if self.waiting() == 0:
            self._transport.close()
            return
        try:
            if self._transport.can_write_eof():
                self._transport.write_eof()
        except OSError:
            # It has been reset, and asyncio has not noticed.
            self._transport.abort()
            return
        self._look_again(_FIRST_LOOK)

    def _look_again(self, pause: float) -> None:
        if self.is_lost:
            return
        if self.waiting() == 0 or self._facts().is_dead:
            self._transport.close()
            return
        if self._is_left_to_the_kernel():
            self._has_timed_out = True
            if self._socket is not None:
                # An orphan of a watched-over socket is reset within seconds.
                with contextlib.suppress(OSError):
                    leave_to_kernel(self._socket)
            self._transport.close()
            return
        self._linger = self._loop.call_later(pause, self._look_again, min(pause * 2, _LONGEST_LOOK))

    def close_idle(self) -> None:
        """Close a connection on which nothing is owed, without a reset for a late request."""
        if self._closing or self._socket is None or self.waiting():
            self.close()
            return
        self._closing = True
        try:
            self._transport.write_eof()
        except (OSError, NotImplementedError):
            self._transport.abort()
            return
        # The client's own FIN ends it sooner, see `eof_received` of the protocol.
        self._linger = self._loop.call_later(_POLITE, self._transport.close)

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

    # --- all else is asyncio's ---------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self.is_closing():
            return
        if self._corked is None:
            self._transport.write(data)
        elif not self._corked:
            is_kept = self.promise and _CLOSE not in data.lower()
            self._corked = bytes(data[:-2]) + self.promise if is_kept else bytes(data)
        else:
            head, self._corked = self._corked, None
            self._transport.write(b"".join((head, data)))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size() + len(self._corked or b"")

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)


def _is_silent(facts: TcpFacts) -> bool:
    unanswered = max(facts.retransmits, facts.probes)
    return unanswered >= TAIL_UNANSWERED and facts.last_ack_ms >= TAIL_SILENCE * 1000


def _next_look(pause: float, gained: int, missing: int) -> float:
    """Seconds until a client that goes on as it did in the last pause is done with the rest."""
    guess = pause * missing / gained if gained > 0 else pause * 2
    return min(max(guess, _FIRST_LOOK), _LONGEST_LOOK)


def can_pump(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this loop's transports leave their socket alone while they have nothing to write.

    asyncio's own do; of others nothing is known.
    """
    return isinstance(loop, asyncio.SelectorEventLoop)


def _is_tcp(sock: Any) -> bool:
    return sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6)
