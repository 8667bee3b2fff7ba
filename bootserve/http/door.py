"""What all connections of the HTTP door have in common."""

from __future__ import annotations

import itertools
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from uvicorn.server import ServerState

from bootserve.http.listener import Option, keep_probing
from bootserve.tcp import watch_over
from bootserve.watch.budget import Budget
from bootserve.watch.liveness import UNANSWERED_WITHOUT_RTO_MAX, Limits

if TYPE_CHECKING:
    from bootserve.http.protocol import BootProtocol

HEAD_TIMEOUT: Final = 30.0
"""Seconds that a request's head may take. No transfer is in flight on such a connection."""

SILENCE_LIMIT: Final = 600.0
"""Seconds without an ACK after which a client may be given up. Firmware that is frozen by its host,
or busy, acknowledges nothing; machines that stood still for 330 s have gone on and booted."""

_NEWCOMER: Final = 2.0
"""Seconds that a connection has for its first request before it counts as idle."""

_HURRY: Final = 0.2
"""Seconds in which a connection that has to make room may still be closed by its client."""

_LOOKED_AT: Final = 64
"""Idle connections that are looked at to find one that may go."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How long the door waits, in seconds; where, see README."""

    head_timeout: float = HEAD_TIMEOUT
    silence_limit: float = SILENCE_LIMIT


class DoorState(ServerState):
    """uvicorn's state of a server, and what its connections share beyond that."""

    def __init__(self, budget: Budget | None = None, manners: Manners | None = None) -> None:
        super().__init__()
        self.budget = budget or Budget()
        self.manners = manners or Manners()
        self.limits = Limits(self.manners.silence_limit)
        self.options: tuple[Option, ...] | None = None
        """What is set on accepted sockets, if it is not what `listener` sets by itself."""
        self.promise = b""
        """The end of each head that says for how long a connection is kept, see `keep_for`."""
        self.is_draining = False
        self.has_successor = False
        """Whether another process accepts on the same sockets, so that nobody need hurry. To be set
        before the server is told to exit."""
        self.silent = 0
        """Connections that owe us an ACK and do not answer, at the last sweep."""
        self._idle: dict[BootProtocol, float] = {}
        self._leaving: set[BootProtocol] = set()

    def keep_for(self, seconds: int) -> None:
        """Say so in answers: whoever is told does not use a connection when we close it.

        RFC 9112, section 9.3, has it kept without a word, but for how long is for each to guess.
        """
        self.promise = b"connection: keep-alive\r\nkeep-alive: timeout=%d\r\n\r\n" % seconds

    def prepare(self, sock: socket.socket) -> None:
        """Set what a client's verdict needs, on a listening socket or a connection.

        Raises:
            OSError: the socket is no TCP socket, or closed.
        """
        self.options = keep_probing(sock, self.limits)
        if not watch_over(sock, self.limits.probe_interval):
            self.limits = replace(self.limits, unanswered=UNANSWERED_WITHOUT_RTO_MAX)

    # --- idle connections --------------------------------------------------------------------

    @property
    def idle(self) -> int:
        """Connections on which no request is in flight."""
        return len(self._idle)

    def rest(self, connection: BootProtocol, now: float) -> None:
        """No request is in flight on this connection, from ``now`` on."""
        self._idle.pop(connection, None)
        self._idle[connection] = now

    def wake(self, connection: BootProtocol) -> None:
        """A request has come on this connection, or it has ended."""
        self._idle.pop(connection, None)
        self._leaving.discard(connection)

    def relieve(self, now: float) -> None:
        """Let idle connections go as long as descriptors are short."""
        if self.budget.is_short:
            # Those that have been let go hold theirs for a moment yet.
            excess = self.budget.in_use - len(self._leaving) - self.budget.admission
            self.close_idle(now, max(int(excess), 0))

    def close_idle(self, now: float, most: int = 1) -> int:
        """Close up to ``most`` connections that have been idle for longest; return how many."""
        closed = 0
        for connection, since in list(itertools.islice(self._idle.items(), most + _LOOKED_AT)):
            if closed >= most:
                break
            if connection.is_newcomer and now - since < _NEWCOMER:
                continue
            if connection.is_asking or not connection.connection.is_quiet:
                # A request is on its way in, or the end of an answer on its way out.
                self.rest(connection, now)
                continue
            del self._idle[connection]
            self._leaving.add(connection)
            if self.budget.may_accept:
                connection.connection.close_idle(_HURRY)
            else:
                connection.connection.close()
            closed += 1
        return closed


def state_of(server_state: ServerState) -> DoorState:
    """Return the state of our server, or of one that is somebody else's."""
    return server_state if isinstance(server_state, DoorState) else _elsewhere


_elsewhere: Final = DoorState()
