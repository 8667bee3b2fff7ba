"""Machines that begin the same file again and again, and never get to its end.

Rules of this module:

* A machine is known by its label, where it has one, and else by its address.
* An attempt is a transfer from a file's first byte. It has failed if it ended in a way in which no
  healthy machine ends one, and it was not this server that broke it off.
* A boot begins when the machine asks for its script: what failed before belongs to another boot,
  even if its end is noticed only now (a machine that was switched off does not say so).
* A machine that begins a file after two failures within one boot is in a restart loop. It is
  reported at the third beginning, the fourth, the eighth and so on, each time twice as late: a loop
  may run all night. Getting the file ends the loop.
* Nothing is kept for a machine that gets what it asks for, but the time of its boot.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from bootserve.text import as_word, printable
from bootserve.watch.ledger import End, Transfer
from bootserve.watch.quiet import QuietLog

logger = logging.getLogger("bootserve.transfer")

_Value = TypeVar("_Value")

LOOP: Final = 3
"""Which beginning of a file within one boot makes a loop."""

_FILES = 8
_STOPS = 4
"""Files that are remembered for a machine, and places where it stopped in each of them."""

Remedy = Callable[[Transfer, str], str]
"""Does something for the machine of a transfer, or says what could be done: the end of a line.

The name is that by which the machine is known."""


@dataclass(slots=True)
class _File:
    """How often a machine has failed to get a file, and how the last times went."""

    failures: int = 0
    next_report: int = LOOP
    stops: list[int] = field(default_factory=list)
    last: str = ""


class Restarts:
    """An observer of the ledger that reports restart loops.

    Args:
        remedy: what follows the report of a loop.
        capacity: machines that are remembered; the one that did something longest ago goes first.
        clock: monotonic seconds, for the number of lines.
    """

    def __init__(
        self,
        remedy: Remedy,
        *,
        capacity: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remedy = remedy
        self._capacity = capacity
        self._boots: OrderedDict[str, float] = OrderedDict()
        self._failed: OrderedDict[str, OrderedDict[str, _File]] = OrderedDict()
        self._log = QuietLog(logger, clock=clock)
        self.loops = 0
        """Restart loops reported since the start, each once."""

    def boots(self, name: str, now: float) -> None:
        if self._failed:
            self._failed.pop(name, None)
        _keep(self._boots, name, now, self._capacity)

    def began(self, transfer: Transfer) -> None:
        if not self._failed or not transfer.from_zero:
            return
        name = _name(transfer)
        files = self._failed.get(name)
        file = files.get(transfer.name) if files else None
        if file is None or file.failures + 1 < file.next_report:
            return
        if file.next_report == LOOP:
            self.loops += 1
        self._report(transfer, name, file)
        while file.next_report <= file.failures + 1:
            file.next_report = 1 << file.next_report.bit_length()

    def ended(self, transfer: Transfer, end: End) -> None:
        name = _name(transfer)
        if end in (End.COMPLETE, End.UNCONFIRMED):
            self._forget(name, transfer.name)
        if end.is_normal or end.is_ours or not transfer.from_zero:
            return
        if transfer.started < self._boots.get(name, transfer.started):
            return
        files = self._failed.get(name) or OrderedDict()
        file = files.get(transfer.name) or _File()
        file.failures += 1
        file.stops = [*file.stops, transfer.sent][-_STOPS:]
        file.last = end.value + (f" while {transfer.verdict}" if transfer.verdict else "")
        _keep(files, transfer.name, file, _FILES)
        _keep(self._failed, name, files, self._capacity)

    def _forget(self, name: str, file: str) -> None:
        files = self._failed.get(name)
        if files is not None:
            files.pop(file, None)
            if not files:
                del self._failed[name]

    def _report(self, transfer: Transfer, name: str, file: _File) -> None:
        self._log.log(
            logging.WARNING,
            "restart loop: %s begins %s from zero for the %s time in this boot;"
            " it stopped at %s of %d bytes, the last time: %s%s",
            as_word(name) if transfer.machine else printable(name),
            as_word(transfer.name),
            _ordinal(file.failures + 1),
            _list([*([] if file.failures == len(file.stops) else ["..."]), *map(str, file.stops)]),
            transfer.total,
            printable(file.last),
            self._remedy(transfer, name),
        )


def _name(transfer: Transfer) -> str:
    return transfer.machine or transfer.client


def _keep(kept: OrderedDict[str, _Value], key: str, value: _Value, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)


def _ordinal(number: int) -> str:
    tens, ones = divmod(number, 10)
    suffix = "th" if tens % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(ones, "th")
    return f"{number}{suffix}"


def _list(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
