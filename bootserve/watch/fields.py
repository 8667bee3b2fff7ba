"""What lines about transfers and refusals say besides their text, by name (`bootserve.events`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bootserve.events import Event, Fields

if TYPE_CHECKING:
    from bootserve.watch.ledger import Transfer


def of_transfer(transfer: Transfer) -> Fields:
    """The fields of a transfer that has ended."""
    assert transfer.end is not None
    assert transfer.ended is not None
    return {
        "event": Event.TRANSFER,
        "protocol": transfer.protocol,
        "client": transfer.client,
        "machine": transfer.machine,
        "arch": transfer.arch,
        "name": transfer.name,
        "sent": transfer.sent,
        "total": transfer.total,
        "seconds": round(transfer.ended - transfer.started, 3),
        "end": transfer.end.token,
        "verdict": transfer.verdict,
        "pauses": transfer.pauses or None,
        "reason": transfer.reason,
        **{what.replace(" ", "_"): count for what, count in transfer.details.items() if count},
    }


def of_loop(transfer: Transfer, beginning: int, stops: Sequence[int], last: str) -> Fields:
    """The fields of a report that a machine is in a restart loop.

    Args:
        transfer: which it begins now.
        beginning: how often it has begun this file in this boot, with this time.
        stops: where it stopped the last times, in bytes.
        last: how the last time ended.
    """
    return {
        "event": Event.LOOP,
        "protocol": transfer.protocol,
        "client": transfer.client,
        "machine": transfer.machine,
        "name": transfer.name,
        "total": transfer.total,
        "beginning": beginning,
        "stops": " ".join(map(str, stops)),
        "reason": last,
    }


def of_refusal(protocol: str, client: str, name: str, reason: str = "") -> Fields:
    """The fields of a line that a client does not get a file."""
    return {"protocol": protocol, "client": client, "name": name, "reason": reason}
