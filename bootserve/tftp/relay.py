"""Between two processes that listen on the same port, during an upgrade with ``single_port``.

Both have the listening sockets then, and the kernel gives each datagram to whichever reads first.
What belongs to no transfer of the one goes to the other. A process knows at most the one that it
has replaced and the one that replaces it; from the one it is passed on to the other, never back, so
that a chain of upgrades works and nothing goes round.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from typing import NamedTuple

from bootserve.tftp.packet import MAX_REQUEST
from bootserve.tftp.sockets import Peer, SocketAddress
from bootserve.watch.quiet import QuietLog

_LARGEST = MAX_REQUEST + 1024
_PER_TURN = 64

_troubles = QuietLog(logging.getLogger("bootserve.tftp"))


class Stray(NamedTuple):
    """A datagram that came to somebody else's process.

    ``port`` is the listening socket's address, as getsockname() returns it.
    """

    port: SocketAddress
    peer: Peer
    datagram: bytes

    def encode(self) -> bytes:
        head = [self.port, self.peer.client, self.peer.local, self.peer.scope]
        return json.dumps(head).encode() + b"\n" + self.datagram

    @classmethod
    def decode(cls, message: bytes) -> Stray:
        """Read what `encode` has written, perhaps in another version of this program.

        Raises:
            ValueError: it is something else.
        """
        head, newline, datagram = message.partition(b"\n")
        try:
            port, client, local, scope = json.loads(head)
            if not newline or not isinstance(local, str) or not isinstance(scope, int):
                raise ValueError("its parts are of another kind")
            return cls(_address(port), Peer(_address(client), local, scope), datagram)
        except TypeError as error:
            raise ValueError(str(error)) from error


def _address(value: list[object]) -> SocketAddress:
    match value:
        case [str(host), int(port)]:
            return host, port
        case [str(host), int(port), int(flow), int(scope)]:
            return host, port, flow, scope
    raise ValueError("it has no address")


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a relay, one for each process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


class Relay:
    """One end, which it closes: when told to, or when the other process has gone.

    Args:
        sock: from `pair`.
        received: gets what the other process passes on.
    """

    def __init__(self, sock: socket.socket, received: Callable[[Stray], None]) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._received = received
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    def send(self, stray: Stray) -> None:
        """Pass a datagram on; may be lost, as in a network."""
        if self._sock.fileno() == -1:
            return
        with contextlib.suppress(OSError):
            self._sock.send(stray.encode())

    def close(self) -> None:
        """May be called again."""
        if self._sock.fileno() != -1:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _readable(self) -> None:
        for _ in range(_PER_TURN):
            try:
                message = self._sock.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self.close()
                return
            try:
                self._received(Stray.decode(message))
            except Exception as error:
                _troubles.log(logging.ERROR, "TFTP: a defect hit a relayed packet", error=error)
            if self._sock.fileno() == -1:
                return
