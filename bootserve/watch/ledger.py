"""Every transfer of every door, in flight and of late: who, what, how far, how it went and ended.

A door opens an entry when it starts to answer a request for bytes, counts what it hands on, notes
every few seconds what the client is doing, and closes the entry with a verdict exactly once; the
ledger writes the line an operator reads. What an entry costs is some attributes: whatever can be
worked out from them is left to those who ask.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from bootserve.events import with_fields
from bootserve.text import as_word, printable
from bootserve.watch.fields import of_transfer
from bootserve.watch.liveness import Verdict
from bootserve.watch.quiet import QuietLog

logger = logging.getLogger("bootserve.transfer")

RECENT: Final = 1000
"""Transfers that are remembered after their end; some hundreds of bytes each."""

SENT_AGAIN: Final = "blocks sent again"
"""The detail of a TFTP transfer with the number of blocks that went out more than once."""

_PAUSES: Final = frozenset({Verdict.PAUSED, Verdict.SILENT})


class End(StrEnum):
    """How a transfer ended, in words for an operator."""

    COMPLETE = "complete"
    UNCONFIRMED = "sent in full, its end not acknowledged"
    CLIENT_LEFT = "client closed the connection"
    CLIENT_ERROR = "client reported an error"
    CLIENT_SILENT = "client fell silent"
    OPTIONS_REFUSED = "client refused our options"
    REPLACED = "client asked again"
    MADE_ROOM = "made room for another, nothing was acknowledged"
    FILE_ERROR = "file could not be read to its end"
    FILE_CHANGED = "file was written to while it was sent"
    SERVER_ERROR = "server failed"
    SERVER_STOPPED = "server was stopped"

    @property
    def token(self) -> str:
        """The same for programs: it stays as it is when the words are changed."""
        return self.name.lower()

    @property
    def is_normal(self) -> bool:
        """Whether a healthy machine ends transfers like this (probing, asking again)."""
        return self in (End.COMPLETE, End.UNCONFIRMED, End.OPTIONS_REFUSED, End.REPLACED)

    @property
    def is_whole(self) -> bool:
        """Whether the client got everything, as far as anybody can tell."""
        return self in (End.COMPLETE, End.UNCONFIRMED)

    @property
    def is_ours(self) -> bool:
        """Whether it was this server, or its disk, that broke the transfer off."""
        return self in (
            End.MADE_ROOM,
            End.FILE_ERROR,
            End.FILE_CHANGED,
            End.SERVER_ERROR,
            End.SERVER_STOPPED,
        )


_FORGEABLE: Final = (End.MADE_ROOM, End.REPLACED)
"""How a transfer may end for a single datagram from whoever, under another's address."""


@dataclass(slots=True, eq=False)
class Transfer:
    """One answer on its way to one client. Sizes in bytes, times in seconds of the ledger's clock.

    ``total`` is what this answer owes (for a range: the range's length). What the client is known
    or believed to have got is counted in ``sent``, or told by ``meter`` whenever somebody asks.
    """

    ledger: Ledger
    number: int
    """Tells this one from all others of this process; later ones have greater numbers."""

    protocol: str
    client: str
    machine: str | None
    name: str
    total: int
    started: float
    """When it was asked for."""

    arch: str = ""
    """The architecture that the file is for, as far as its name tells."""

    agent: str | None = None
    """Its User-Agent, where that matters; untrusted."""

    sent: int = 0
    meter: Callable[[], int] | None = None
    details: dict[str, int] = field(default_factory=dict)
    verdict: str = ""
    """What the client is doing, in a word, as of the last look; empty before the first."""

    from_zero: bool = True
    """Whether this answer begins with the file's first byte."""

    first_byte: float | None = None
    """When the first byte of the file was given to the kernel."""

    looked_at: float = 0.0
    seen: int = 0
    rate: float = 0.0
    """When the last look was, the progress that it saw, and the bytes per second before it."""

    pauses: int = 0
    stalled: float = 0.0
    """How often the client fell silent or took nothing for a while, and the seconds in all between
    two looks that saw no progress."""

    ended: float | None = None
    end: End | None = None
    reason: str = ""

    @property
    def progress(self) -> int:
        """Bytes that the client has got, as precisely as the door can tell."""
        return self.sent if self.meter is None else self.meter()

    def look(self, verdict: Verdict, now: float) -> None:
        """Note what the client is doing."""
        progress = self.progress
        seconds = now - (self.looked_at or self.started)
        if seconds > 0:
            self.rate = (progress - self.seen) / seconds
            if progress == self.seen:
                self.stalled += seconds
        if verdict in _PAUSES and self.verdict not in _PAUSES:
            self.pauses += 1
        self.looked_at, self.seen, self.verdict = now, progress, verdict.value

    def sends(self, now: float) -> None:
        """Note that a byte of the file is being given to the kernel; the first one counts."""
        if self.first_byte is None:
            self.first_byte = now

    def close(self, end: End, reason: str = "") -> None:
        """End the transfer; a second call is ignored, the first verdict stands."""
        self.ledger._close(self, end, reason)


class Observer(Protocol):
    """Is told what happens, in its order; times are the ledger's."""

    def began(self, transfer: Transfer) -> None: ...

    def ended(self, transfer: Transfer, end: End, now: float) -> None:
        """``transfer.sent`` is final."""

    def boots(self, name: str) -> None:
        """The machine of this label, or at this address, has asked for its script."""


class Ledger:
    """The transfers in flight, and the last ones that were. One for the whole process.

    Args:
        clock: monotonic seconds.
        observers: are told of beginnings and ends.
        recent: transfers to remember after their end.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        observers: Iterable[Observer] = (),
        recent: int = RECENT,
    ) -> None:
        self._clock = clock
        self._observers = tuple(observers)
        self._live: dict[Transfer, None] = {}
        self._recent: deque[Transfer] = deque(maxlen=recent)
        self._count = 0
        self._forged = {end: QuietLog(logger, clock=clock) for end in _FORGEABLE}

    @property
    def live(self) -> tuple[Transfer, ...]:
        """The transfers in flight now, the one that began first at the front."""
        return tuple(self._live)

    def now(self) -> float:
        """Seconds of the clock that all times in here are of."""
        return self._clock()

    @property
    def recent(self) -> tuple[Transfer, ...]:
        """The last transfers that have ended, the latest at the end."""
        return tuple(self._recent)

    def open(
        self,
        *,
        protocol: str,
        client: str,
        machine: str | None,
        name: str,
        total: int,
        from_zero: bool = True,
        agent: str | None = None,
        arch: str = "",
        asked: float | None = None,
    ) -> Transfer:
        """Start an entry. ``client`` is an address, ``machine`` what we know it as, if we do.

        Args:
            asked: when the request came; without it, now.
        """
        self._count += 1
        transfer = Transfer(
            self,
            self._count,
            protocol,
            client,
            machine,
            name,
            total,
            self._clock() if asked is None else asked,
            arch,
            agent,
            from_zero=from_zero,
        )
        self._live[transfer] = None
        for observer in self._observers:
            observer.began(transfer)
        return transfer

    def boots(self, name: str) -> None:
        """A machine asks for its script: it has been started anew.

        Args:
            name: its label or, only if it has none, its address.
        """
        for observer in self._observers:
            observer.boots(name)

    def _close(self, transfer: Transfer, end: End, reason: str) -> None:
        if transfer not in self._live:
            return
        del self._live[transfer]
        now = self._clock()
        transfer.sent, transfer.meter = transfer.progress, None
        transfer.ended, transfer.end, transfer.reason = now, end, reason
        self._recent.append(transfer)
        for observer in self._observers:
            observer.ended(transfer, end, now)
        who = printable(transfer.client)
        if transfer.machine:
            who += f" ({as_word(transfer.machine)})"
        more = "".join(f", {count} {what}" for what, count in transfer.details.items() if count)
        # Of these there may be thousands in a second; to have got something takes an address.
        is_forgeable = end in self._forged and not transfer.sent
        log = self._forged[end].log if is_forgeable else logger.log
        log(
            logging.INFO if end.is_normal else logging.WARNING,
            "%s %s %s %d of %d bytes in %.1f s%s: %s%s",
            transfer.protocol,
            who,
            as_word(transfer.name),
            transfer.sent,
            transfer.total,
            now - transfer.started,
            more,
            end.value,
            f" ({printable(reason)})" if reason else "",
            extra=with_fields(of_transfer, transfer),
        )
