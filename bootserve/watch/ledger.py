"""Every transfer of every door: who, what, how far, how it ended.

A door opens an entry when it starts to answer a request for bytes, counts what it hands on, and
closes the entry with a verdict exactly once; the ledger writes the line an operator reads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from bootserve.text import as_word, printable

logger = logging.getLogger("bootserve.transfer")


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
    def is_normal(self) -> bool:
        """Whether a healthy machine ends transfers like this (probing, asking again)."""
        return self in (End.COMPLETE, End.UNCONFIRMED, End.OPTIONS_REFUSED, End.REPLACED)

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


@dataclass(slots=True, eq=False)
class Transfer:
    """One answer on its way to one client. Sizes in bytes, times in seconds of the ledger's clock.

    ``total`` is what this answer owes (for a range: the range's length). What the client is known
    or believed to have got is counted in ``sent``, or told by ``meter`` whenever somebody asks.
    """

    ledger: Ledger
    protocol: str
    client: str
    machine: str | None
    name: str
    total: int
    started: float
    agent: str | None = None
    """Its User-Agent, where that matters; untrusted."""

    sent: int = 0
    meter: Callable[[], int] | None = None
    details: dict[str, int] = field(default_factory=dict)
    verdict: str = ""
    """What the client is doing, in a word, as of the last look; empty before the first."""

    from_zero: bool = True
    """Whether this answer begins with the file's first byte."""

    @property
    def progress(self) -> int:
        """Bytes that the client has got, as precisely as the door can tell."""
        return self.sent if self.meter is None else self.meter()

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
    """The transfers in flight. One for the whole process.

    Args:
        clock: monotonic seconds.
        observer: is told of beginnings and ends.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, observer: Observer | None = None
    ) -> None:
        self._clock = clock
        self._observer = observer
        self._live: set[Transfer] = set()

    @property
    def live(self) -> frozenset[Transfer]:
        """The transfers in flight now."""
        return frozenset(self._live)

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
    ) -> Transfer:
        """Start an entry. ``client`` is an address, ``machine`` what we know it as, if we do."""
        transfer = Transfer(
            self, protocol, client, machine, name, total, self._clock(), agent, from_zero=from_zero
        )
        self._live.add(transfer)
        if self._observer is not None:
            self._observer.began(transfer)
        return transfer

    def boots(self, name: str) -> None:
        """A machine asks for its script: it has been started anew.

        Args:
            name: its label or, only if it has none, its address.
        """
        if self._observer is not None:
            self._observer.boots(name)

    def _close(self, transfer: Transfer, end: End, reason: str) -> None:
        if transfer not in self._live:
            return
        self._live.remove(transfer)
        transfer.sent, transfer.meter = transfer.progress, None
        if self._observer is not None:
            self._observer.ended(transfer, end, self._clock())
        who = printable(transfer.client)
        if transfer.machine:
            who += f" ({as_word(transfer.machine)})"
        more = "".join(f", {count} {what}" for what, count in transfer.details.items() if count)
        logger.log(
            logging.INFO if end.is_normal else logging.WARNING,
            "%s %s %s %d of %d bytes in %.1f s%s: %s%s",
            transfer.protocol,
            who,
            as_word(transfer.name),
            transfer.sent,
            transfer.total,
            self._clock() - transfer.started,
            more,
            end.value,
            f" ({printable(reason)})" if reason else "",
        )
