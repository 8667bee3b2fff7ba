"""The ledger as others are shown it: `bootserve status`, scripts, ``GET /transfers.json``.

The same JSON for all of them. Sizes are bytes, times seconds, points in time seconds since 1970;
what is not known is ``null``. Strings are as clients sent them: whoever prints them escapes them.
"""

from __future__ import annotations

from typing import TypedDict

from bootserve.watch.ledger import SENT_AGAIN, Transfer


class Entry(TypedDict):
    """One transfer."""

    id: int
    protocol: str
    client: str
    machine: str | None
    arch: str | None
    name: str
    sent: int
    """What the client has, as far as is known."""
    total: int
    started: float
    seconds: float
    """Since it was asked for, until now or its end."""
    rate: float
    """Bytes per second, as of the last look at a transfer in flight; else as `mean_rate`."""
    mean_rate: float
    first_byte_seconds: float | None
    """From the request until the first byte of the file was given to the kernel."""
    pauses: int
    stalled_seconds: float
    """How often it paused or fell silent, and for how long it made no progress, in all."""
    sent_again: int | None
    """TFTP: blocks that were sent more than once."""
    verdict: str | None
    """What the client was doing at the last look, see `bootserve.watch.liveness.Verdict`."""
    end: str | None
    """How it ended, as a token and in words; ``null`` while it is in flight."""
    end_text: str | None
    reason: str | None


def entry(transfer: Transfer, now: float, wall: float) -> Entry:
    """Write a transfer down.

    Args:
        now: seconds of the ledger's clock.
        wall: seconds since 1970 at the same moment.
    """
    until = now if transfer.ended is None else transfer.ended
    seconds = max(until - transfer.started, 0.0)
    sent = transfer.progress
    mean = sent / seconds if seconds > 0 else 0.0
    is_measured = transfer.ended is None and transfer.looked_at > 0
    began = transfer.first_byte
    return {
        "id": transfer.number,
        "protocol": transfer.protocol.lower(),
        "client": transfer.client,
        "machine": transfer.machine,
        "arch": transfer.arch or None,
        "name": transfer.name,
        "sent": sent,
        "total": transfer.total,
        "started": round(wall - (now - transfer.started), 3),
        "seconds": round(seconds, 3),
        "rate": round(transfer.rate if is_measured else mean, 1),
        "mean_rate": round(mean, 1),
        "first_byte_seconds": None if began is None else round(began - transfer.started, 6),
        "pauses": transfer.pauses,
        "stalled_seconds": round(transfer.stalled, 1),
        "sent_again": transfer.details.get(SENT_AGAIN),
        "verdict": transfer.verdict or None,
        "end": None if transfer.end is None else transfer.end.token,
        "end_text": None if transfer.end is None else transfer.end.value,
        "reason": transfer.reason or None,
    }
