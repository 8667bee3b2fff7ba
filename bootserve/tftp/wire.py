"""The way to one client: a port of the transfer's own, or the listening port (Linux).

Both hand the kernel a whole run of packets in one system call (UDP_SEGMENT, udp(7)), and go back to
one call for each where it will not take them: older kernels, devices that cannot, packets that are
larger than the path's MTU.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from bootserve.loop import add_direct_reader, remove_direct_reader
from bootserve.tftp import sockets
from bootserve.tftp.sockets import Peer

# <linux/udp.h>: Python 3.11 has no names for them.
_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103

_MOST_SEGMENTS: Final = 64
"""UDP_MAX_SEGMENTS of <linux/udp.h> before Linux 6.9; 128 since."""
_MOST_BYTES: Final = 65_000
"""The kernel builds one IP packet of them first, headers included."""

_UNSEGMENTED: Final = (errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP)


class Sent(Enum):
    """What became of a packet, or of the first that did not go out."""

    OUT = auto()
    LOST = auto()
    """No route, a full queue, a filter: the timer repairs it."""
    BUFFER_FULL = auto()


Take = Callable[[bytearray, int], bool]
"""Gets a buffer, which is used again, and how many bytes in it a client has sent. Returns what a
`DirectReader` returns."""


class Wire(ABC):
    """To one client. Sending raises nothing: what is lost is the timer's to repair."""

    def __init__(self) -> None:
        self._is_segmenting = True
        self.was_refused = False
        """Whether the client's host has said that the port is closed; who reads it resets it."""

    def send_run(self, packets: memoryview, stride: int) -> tuple[int, Sent]:
        """Send packets of ``stride`` bytes each, of which the last may be shorter.

        Returns:
            how many are out, and what became of the next one.
        """
        total = len(packets)
        at = 0
        while at < total:
            together = min(_MOST_BYTES // stride, _MOST_SEGMENTS) if self._is_segmenting else 1
            part = packets[at : at + max(together, 1) * stride]
            try:
                sent = self._transmit(part, stride if len(part) > stride else 0)
            except OSError:
                self._is_segmenting = False
                self._end_segmenting()
                continue
            if sent is not Sent.OUT:
                return at // stride, sent
            at += len(part)
        return -(-total // stride), Sent.OUT

    def send(self, packet: bytes | memoryview) -> Sent:
        """Send one packet."""
        try:
            return self._transmit(packet, 0)
        except OSError:
            return Sent.LOST

    def _transmit(self, data: bytes | memoryview, stride: int) -> Sent:
        """Send ``data``, cut into packets of ``stride`` bytes unless that is 0.

        Raises:
            OSError: the kernel cannot cut it up.
        """
        for _ in range(2):
            try:
                self._hand_over(data, stride)
            except ConnectionRefusedError:
                # The answer to an earlier datagram; the kernel reports it instead of sending this.
                self.was_refused = True
            except BlockingIOError:
                return Sent.BUFFER_FULL
            except OSError as error:
                if self._is_segmenting and error.errno in _UNSEGMENTED:
                    raise
                return Sent.LOST
            else:
                return Sent.OUT
        return Sent.LOST

    @abstractmethod
    def _hand_over(self, data: bytes | memoryview, stride: int) -> None:
        """Make the system call."""

    @abstractmethod
    def _end_segmenting(self) -> None:
        """Undo what the kernel has been told, if it has."""

    @abstractmethod
    def listen(self, take: Take, refused: Callable[[], None]) -> None:
        """Hand on what comes from the client, and that its port is closed if that is told."""

    @abstractmethod
    def when_writable(self, callback: Callable[[], None] | None) -> None:
        """Call back, again and again, while there is room in the buffer; ``None`` ends it."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""


class OwnPort(Wire):
    """A connected socket, which it closes: the transfer identifier (TID) of RFC 1350."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._stride = 0
        self._is_writing = False
        self._take: Take = _ignore
        self._refused: Callable[[], None] = _do_nothing

    def listen(self, take: Take, refused: Callable[[], None]) -> None:
        self._take, self._refused = take, refused
        add_direct_reader(self._sock, self._readable)

    def when_writable(self, callback: Callable[[], None] | None) -> None:
        if callback is not None:
            self._is_writing = True
            self._loop.add_writer(self._sock, callback)
        elif self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._sock)

    def close(self) -> None:
        if self._sock.fileno() != -1:
            remove_direct_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._take, self._refused = _ignore, _do_nothing  # and not their owner, who has us

    def send_run(self, packets: memoryview, stride: int) -> tuple[int, Sent]:
        if len(packets) <= stride:
            try:
                self._sock.send(packets)
            except ConnectionRefusedError:
                self.was_refused = True
            except OSError:
                pass  # once more, with all that belongs to it
            else:
                return _ONE_OUT
        return super().send_run(packets, stride)

    def _readable(self) -> bool:
        # One datagram for each turn of the loop: an ACK is answered by a window, and to ask whether
        # there is another would make lockstep dearer.
        try:
            size = self._sock.recv_into(_buffer)
        except ConnectionRefusedError:
            self._refused()
            return False
        except OSError:
            return False  # nothing there after all, or the network's trouble: the timer judges it
        return self._take(_buffer, size)

    def _hand_over(self, data: bytes | memoryview, stride: int) -> None:
        if stride != self._stride and stride:
            # It concerns only what is longer, so it can stay for whole transfers.
            self._sock.setsockopt(_SOL_UDP, _UDP_SEGMENT, stride)
            self._stride = stride
        self._sock.send(data)

    def _end_segmenting(self) -> None:
        if self._stride:
            # It would refuse single packets of this size, too.
            self._sock.setsockopt(_SOL_UDP, _UDP_SEGMENT, 0)


class ListeningPort:
    """A listening socket, as far as transfers send from it. The socket stays its owner's."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[SharedPort, Callable[[], None]] = {}

    def when_writable(self, who: SharedPort, callback: Callable[[], None] | None) -> None:
        if callback is None:
            self._waiting.pop(who, None)
        else:
            self._waiting[who] = callback
        if self.sock.fileno() == -1:
            return
        if self._waiting:
            self._loop.add_writer(self.sock, self._writable)
        else:
            self._loop.remove_writer(self.sock)

    def _writable(self) -> None:
        # Each may fill the buffer: the one that has waited longest comes first.
        who, callback = next(iter(self._waiting.items()))
        del self._waiting[who]
        self._waiting[who] = callback
        callback()


class SharedPort(Wire):
    """The listening port, which serves every transfer; datagrams are handed to it by the server."""

    def __init__(self, port: ListeningPort, peer: Peer) -> None:
        super().__init__()
        self._port = port
        self._client = peer.client
        self._from = sockets.source(port.sock.family, peer)

    def listen(self, take: Take, refused: Callable[[], None]) -> None:
        """Nothing to do: an unconnected socket is told of no closed port either (udp(7))."""

    def when_writable(self, callback: Callable[[], None] | None) -> None:
        self._port.when_writable(self, callback)

    def close(self) -> None:
        self._port.when_writable(self, None)

    def _hand_over(self, data: bytes | memoryview, stride: int) -> None:
        control = [self._from]
        if stride:
            control.append((_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", stride)))
        self._port.sock.sendmsg([data], control, 0, self._client)

    def _end_segmenting(self) -> None:
        """Nothing to undo: the kernel is told with each call."""


def _ignore(_: bytearray, __: int) -> bool:
    return False


def _do_nothing() -> None:
    pass


_ONE_OUT: Final = (1, Sent.OUT)

_buffer = bytearray(512)
"""For what means something to a transfer: ACK and ERROR."""
