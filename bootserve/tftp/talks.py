"""Who is being served, and whether one more may be: bounds that nobody can turn against others.

Rules of this module:

* One client address and port has at most one talk.
* Talks are bounded in all and for each client address. Where a bound is reached, the oldest talk
  ends whose client has acknowledged nothing (of that address, for its own bound): it may never
  have been there, so that nobody can lock real clients out with requests from forged addresses.
  Only if there is none the newcomer is refused.
* A request that was replaced still counts while its file is being opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from bootserve.tftp.delivery import Delivery
from bootserve.tftp.packet import Request
from bootserve.tftp.sockets import Peer, SocketAddress
from bootserve.watch.ledger import End

MAX_SESSIONS = 4096
"""Transfers at once. Each takes a descriptor, a few KiB and, as it moves, a piece of its file."""

MAX_SESSIONS_PER_CLIENT = 1024
"""Transfers at once to one address; a rack behind a router that translates addresses has one."""


class TooManyTalks(Exception):
    """There is no place; ``str()`` says for whom."""


@dataclass(slots=True, eq=False)
class Talk:
    """What a client's port is being told: first its file is opened, then there is a delivery."""

    request: Request
    peer: Peer
    delivery: Delivery | None = None
    is_replaced: bool = False

    def is_repeated_by(self, request: Request) -> bool:
        """Whether a request is one more of the same, and taken note of."""
        if request != self.request:
            return False
        return self.delivery is None or self.delivery.take_repeat()

    def replace(self) -> None:
        """End it, for its client has begun another."""
        self.is_replaced = True
        if self.delivery is not None:
            self.delivery.stop(End.REPLACED)


@dataclass(slots=True)
class _Host:
    """The talks with one address, and those with a delivery that may be unproven, in its order."""

    count: int = 0
    unproven: dict[Talk, None] = field(default_factory=dict)


class Talks:
    """All talks of the TFTP door.

    Args:
        most: in all.
        most_per_client: for each client address.
    """

    def __init__(self, most: int, most_per_client: int) -> None:
        self._most = most
        self._most_per_client = most_per_client
        self._talks: dict[SocketAddress, Talk] = {}
        self._hosts: dict[str, _Host] = {}
        # Those with a delivery, the oldest first; some of them proven meanwhile.
        self._unproven: dict[Talk, None] = {}
        self._opening: set[Talk] = set()

    def __len__(self) -> int:
        return len(self._talks)

    def __iter__(self) -> Iterator[Talk]:
        """All of them as of now: they may end meanwhile."""
        return iter(list(self._talks.values()))

    def at(self, client: SocketAddress) -> Talk | None:
        """The talk with one address and port."""
        return self._talks.get(client)

    def admit(self, request: Request, peer: Peer, *, has_room: bool) -> Talk:
        """Begin a talk; there is none with this address and port. `opened` is to be called next.

        Args:
            has_room: whether the process has what one more takes.

        Raises:
            TooManyTalks: no place is left, and none could be made.
        """
        host = self._hosts.get(peer.client[0]) or _Host()
        if host.count >= self._most_per_client and not self._make_room(host.unproven):
            raise TooManyTalks("too many transfers to this address")
        # A talk that was replaced while its file is being opened counts as one.
        is_full = max(len(self._talks), len(self._opening)) >= self._most
        if (is_full or not has_room) and not self._make_room(self._unproven):
            raise TooManyTalks("too many transfers")
        talk = self._talks[peer.client] = Talk(request, peer)
        host = self._hosts.setdefault(peer.client[0], _Host())
        host.count += 1
        self._opening.add(talk)
        return talk

    def opened(self, talk: Talk) -> None:
        """The file of a talk has been opened, or could not be; without a delivery this ends it."""
        self._opening.discard(talk)
        if talk.delivery is None:
            self.end(talk)
        elif self._talks.get(talk.peer.client) is talk:
            host = self._hosts[talk.peer.client[0]]
            host.unproven[talk] = self._unproven[talk] = None

    def end(self, talk: Talk) -> None:
        """Forget a talk; may be called again."""
        if self._talks.get(talk.peer.client) is not talk:
            return
        del self._talks[talk.peer.client]
        self._unproven.pop(talk, None)
        host = self._hosts[talk.peer.client[0]]
        host.unproven.pop(talk, None)
        host.count -= 1
        if not host.count:
            del self._hosts[talk.peer.client[0]]

    def _make_room(self, unproven: dict[Talk, None]) -> bool:
        while unproven:
            talk = next(iter(unproven))
            if talk.delivery is not None and not talk.delivery.is_proven:
                talk.delivery.stop(End.MADE_ROOM)
                return True
            # It never has to go for another: nobody need look at it again.
            self._unproven.pop(talk, None)
            self._hosts[talk.peer.client[0]].unproven.pop(talk, None)
        return False
