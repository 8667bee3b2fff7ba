"""The processes that this one has replaced and is replaced by, as far as they share a port with it.

A datagram for a transfer of another process may be received by any of them, see
`bootserve.tftp.relay`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from bootserve.tftp.relay import Relay, Stray, pair
from bootserve.tftp.sockets import Peer
from bootserve.tftp.wire import ListeningPort


class Neighbours:
    """The predecessor's and the successor's relay, if there are any.

    Args:
        take: takes what has come over one of them, with that one.
    """

    def __init__(self, take: Callable[[Stray, Relay | None], None]) -> None:
        self._take = take
        self.predecessor: Relay | None = None
        self.successor: Relay | None = None

    def invite_successor(self) -> socket.socket | None:
        """Return the end of a relay for the successor, which is the caller's.

        ``None`` where no descriptor is left.
        """
        try:
            ours, theirs = pair()
        except OSError:
            return None
        if self.successor is not None:
            self.successor.close()
        self.successor = Relay(ours, lambda stray: self._take(stray, self.successor))
        return theirs

    def join_predecessor(self, sock: socket.socket) -> None:
        """Use the end of a relay that the predecessor has made; it is ours from now on."""
        self.predecessor = Relay(sock, lambda stray: self._take(stray, self.predecessor))

    def pass_on(
        self, port: ListeningPort, datagram: bytes, peer: Peer, *, not_to: Relay | None
    ) -> None:
        """Have the others take a datagram, but for the one that it came from."""
        for relay in (self.predecessor, self.successor):
            if relay is not None and relay is not not_to:
                relay.send(Stray(port.sock.getsockname(), peer, datagram))

    def close(self) -> None:
        """Free what is held."""
        for relay in (self.predecessor, self.successor):
            if relay is not None:
                relay.close()
