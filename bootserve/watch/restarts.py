"""Machines that begin the same file again and again, and never get to its end.

Rules of this module:

* A machine is known by its label, where it has one, and else by its address.
* An attempt is a transfer from a file's first byte. It has failed if it ended in a way in which no
  healthy machine ends one, and it was not this server that broke it off.
* An attempt that is still open has failed as well, if its client is silent or paused when the same
  machine begins the file anew: a network card that hangs says no goodbye, and iPXE then begins
  again on another connection. One that moves is a download beside the other.
* A boot begins when the machine asks for its script: what failed before belongs to another boot,
  even if its end is noticed only now (a machine that was switched off does not say so). So do
  failures that are older than any boot takes.
* A machine that begins a file after two failures within one boot is in a restart loop. It is
  reported at the third beginning, the fourth, the eighth and so on, each time twice as late: a loop
  may run all night. Getting the file ends the loop.
* Nothing is kept for a machine that gets what it asks for, but what it is being sent.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeVar

from bootserve.events import with_fields
from bootserve.text import as_word, printable
from bootserve.watch.fields import of_loop
from bootserve.watch.ledger import End, Transfer
from bootserve.watch.liveness import Verdict
from bootserve.watch.quiet import QuietLog

logger = logging.getLogger("bootserve.transfer")

_Value = TypeVar("_Value")
_Files = TypeVar("_Files", bound=MutableMapping[str, Any])

LOOP: Final = 3
"""Which beginning of a file within one boot makes a loop."""

STALE: Final = 3600.0
"""Seconds between a failure and the next beginning after which they are not of the same boot."""

_FILES = 8
_STOPS = 4
"""Files that are remembered for a machine, and places where it stopped in each of them."""

_LOOKED_AT = 64
"""Attempts in flight, the oldest first, that a beginning looks at."""

_HANGING = frozenset({Verdict.SILENT, Verdict.PAUSED})

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
    ended: float = 0.0
    """When the last one failed, in seconds of the ledger's clock."""


_Attempts = OrderedDict[Transfer, None]


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
        self._open: dict[str, dict[str, _Attempts]] = {}
        self._failed: OrderedDict[str, OrderedDict[str, _File]] = OrderedDict()
        self._log = QuietLog(logger, clock=clock)
        self.loops = 0
        """Restart loops reported since the start, each once."""

    def boots(self, name: str) -> None:
        self._failed.pop(name, None)
        self._open.pop(name, None)

    def began(self, transfer: Transfer) -> None:
        if not transfer.from_zero:
            return
        name = _name(transfer)
        attempts = self._open.setdefault(name, {}).setdefault(transfer.name, OrderedDict())
        hanging = [one for one in islice(attempts, _LOOKED_AT) if one.verdict in _HANGING]
        attempts[transfer] = None
        files = self._failed.get(name)
        file = files.get(transfer.name) if files else None
        if file is not None and transfer.started - file.ended > STALE:
            _drop(self._failed, name, transfer.name)
            file = None
        if file is None:
            if len(hanging) + 1 < LOOP:
                return
            # So that the next beginning knows of this report.
            file = self._remember(name, transfer.name, transfer.started)
        elif hanging:
            file.ended = transfer.started
        beginning = file.failures + len(hanging) + 1
        if beginning < file.next_report:
            return
        if file.next_report == LOOP:
            self.loops += 1
        self._report(transfer, name, file, hanging)
        while file.next_report <= beginning:
            file.next_report = 1 << file.next_report.bit_length()

    def ended(self, transfer: Transfer, end: End, now: float) -> None:
        name = _name(transfer)
        is_of_this_boot = self._close(name, transfer)
        if end.is_whole:
            _drop(self._failed, name, transfer.name)
            # Attempts that it has given up in favour of this one begin no other loop.
            _drop(self._open, name, transfer.name)
        if end.is_normal or end.is_ours or not is_of_this_boot:
            return
        file = self._remember(name, transfer.name, now)
        file.failures += 1
        file.stops = [*file.stops, transfer.sent][-_STOPS:]
        file.last = end.value + (f" while {transfer.verdict}" if transfer.verdict else "")

    def _close(self, name: str, transfer: Transfer) -> bool:
        """Take an attempt from those in flight; return whether it was one of them."""
        files = self._open.get(name, {})
        attempts = files.get(transfer.name)
        if attempts is None or transfer not in attempts:
            return False
        del attempts[transfer]
        if not attempts:
            _drop(self._open, name, transfer.name)
        return True

    def _remember(self, name: str, file_name: str, now: float) -> _File:
        files = self._failed.get(name) or OrderedDict()
        file = files.get(file_name) or _File()
        file.ended = now
        _keep(files, file_name, file, _FILES)
        _keep(self._failed, name, files, self._capacity)
        return file

    def _report(
        self, transfer: Transfer, name: str, file: _File, hanging: Sequence[Transfer]
    ) -> None:
        failures = file.failures + len(hanging)
        stops = [*file.stops, *(one.progress for one in hanging)][-_STOPS:]
        last = f"still open, and {hanging[-1].verdict}" if hanging else file.last
        self._log.log(
            logging.WARNING,
            "restart loop: %s begins %s from zero for the %s time in this boot;"
            " it stopped at %s of %d bytes, the last time: %s%s",
            as_word(name) if transfer.machine else printable(name),
            as_word(transfer.name),
            _ordinal(failures + 1),
            _list([*([] if failures == len(stops) else ["..."]), *map(str, stops)]),
            transfer.total,
            printable(last),
            self._remedy(transfer, name),
            extra=with_fields(of_loop, transfer, failures + 1, stops, last),
        )


def _name(transfer: Transfer) -> str:
    return transfer.machine or transfer.client


def _keep(kept: OrderedDict[str, _Value], key: str, value: _Value, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)


def _drop(kept: MutableMapping[str, _Files], name: str, file: str) -> None:
    """Forget a file of a machine, and a machine of which nothing is left."""
    files = kept.get(name)
    if files is not None:
        files.pop(file, None)
        if not files:
            del kept[name]


def _ordinal(number: int) -> str:
    tens, ones = divmod(number, 10)
    suffix = "th" if tens % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(ones, "th")
    return f"{number}{suffix}"


def _list(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
