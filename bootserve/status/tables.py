"""The two tables: what is in flight, and what has ended of late."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from rich.text import Text

from bootserve.status import units
from bootserve.status.layout import Column, Glyphs, choose, cut, heading, line, natural
from bootserve.status.reading import Row
from bootserve.watch.ledger import End
from bootserve.watch.liveness import Verdict
from bootserve.watch.words import ATTENTION, in_words

STYLES: Final = {
    Verdict.MOVING.value: "green",
    Verdict.SLOW.value: "cyan",
    Verdict.PAUSED.value: "yellow",
    Verdict.STARVED.value: "magenta",
    Verdict.SILENT.value: "red",
    Verdict.GONE.value: "red",
}
_ENDS: Final = {
    end.token: "green" if end.is_whole else "dim" if end.is_normal else "red"
    for end in End
    if end.is_normal or end.is_ours
}
_RANKS: Final = {verdict.value: rank for rank, verdict in enumerate(ATTENTION)}

_Draw = Callable[[Row, int], Text]

_WHO_LEAST, _WHO_MOST = 17, 30
"""Cells for a machine; a MAC address has 17."""

_CLIENT_MOST = 39
_NAME_LEAST, _NAME_MOST = 13, 48
_VERDICT = 14
_BAR_LEAST, _BAR_MOST, _PERCENT = 10, 24, 4


def counts(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """How many clients there are of each verdict that wants attention, the worst first."""
    found = Counter(row.verdict for row in rows)
    return [(verdict.value, found[verdict.value]) for verdict in ATTENTION if found[verdict.value]]


def most_urgent(rows: Sequence[Row], most: int) -> list[Row]:
    """Return so many rows, those that want attention first; each group in its old order."""
    return sorted(rows, key=lambda row: _RANKS.get(row.verdict, len(_RANKS)))[:most]


def in_flight(rows: Sequence[Row], width: int, glyphs: Glyphs, *, with_pid: bool) -> list[Text]:
    """Draw transfers in flight, below a line of titles.

    Args:
        with_pid: say which process each belongs to.
    """
    draw = _Drawing(rows, glyphs)
    columns = [
        *draw.who(),
        Column("file", "FILE", _NAME_LEAST, draw.name_most, draw.name),
        Column("protocol", "", 4, 4, lambda row, _: Text(row.protocol, "dim")),
        Column(
            "bar",
            "PROGRESS",
            _BAR_LEAST + 1 + _PERCENT,
            _BAR_MOST + 1 + _PERCENT,
            draw.bar,
        ),
        Column("size", "", 12, 14, draw.size, is_right=True),
        Column("rate", "RATE", 9, 9, lambda row, _: Text(units.rate(row.rate)), is_right=True),
        Column("left", "LEFT", 7, 7, draw.left, is_right=True),
        Column("verdict", "CLIENT IS", _VERDICT, _VERDICT, draw.verdict),
    ]
    importance = ["who", "verdict", "bar", "file", "rate", "left", "client", "size", "protocol"]
    if with_pid:
        columns.append(draw.pid())
        importance.append("pid")
    return _table(rows, columns, importance, ["who", "client", "file", "bar"], width)


def ended(rows: Sequence[Row], width: int, now: float, glyphs: Glyphs) -> list[Text]:
    """Draw transfers that have ended, below a line of titles.

    Args:
        now: seconds since 1970.
    """
    draw = _Drawing(rows, glyphs)

    def when(row: Row, _: int) -> Text:
        if row.started is None or row.seconds is None:
            return Text("")
        return Text(units.ago(now - row.started - row.seconds), "dim")

    columns = [
        Column("when", "ENDED", 10, 10, when),
        *draw.who(),
        Column("file", "FILE", _NAME_LEAST, draw.name_most, draw.name),
        Column("protocol", "", 4, 4, lambda row, _: Text(row.protocol, "dim")),
        Column("end", "HOW", 15, natural((_how(row) for row in rows), 44), draw.end),
        Column("seconds", "TOOK", 7, 8, draw.seconds, is_right=True),
        Column("rate", "RATE", 9, 9, lambda row, _: Text(units.rate(row.mean_rate)), is_right=True),
        Column("pauses", "PAUSES", 6, 6, draw.pauses, is_right=True),
    ]
    importance = ["who", "end", "file", "when", "seconds", "rate", "pauses", "client", "protocol"]
    return _table(rows, columns, importance, ["who", "client", "end", "file"], width)


def _table(
    rows: Sequence[Row],
    columns: Sequence[Column],
    importance: Sequence[str],
    stretch: Sequence[str],
    width: int,
) -> list[Text]:
    there = {column.key for column in columns}
    wanted = [key for key in importance if key in there]
    chosen = choose(columns, wanted, stretch, width)
    return [heading(chosen), *(line(chosen, row) for row in rows)]


class _Drawing:
    """Draws the cells of rows that are shown together."""

    def __init__(self, rows: Sequence[Row], glyphs: Glyphs) -> None:
        self._rows = rows
        self._glyphs = glyphs
        self._has_machines = any(row.machine for row in rows)
        self.name_most = max(natural((row.name for row in rows), _NAME_MOST), _NAME_LEAST)

    def who(self) -> list[Column]:
        """The machine and its address; the address alone if no machine is known."""
        clients = natural((row.client for row in self._rows), _CLIENT_MOST)
        if not self._has_machines:
            return [self._named("who", "CLIENT", max(clients, 6), self._client)]
        whos = max(natural((row.machine or row.client for row in self._rows), _WHO_MOST), 7)
        return [
            self._named("who", "MACHINE", whos, self._machine),
            Column("client", "ADDRESS", max(clients, 7), max(clients, 7), self._client),
        ]

    def _named(self, key: str, title: str, most: int, draw: _Draw) -> Column:
        return Column(key, title, min(most, _WHO_LEAST), most, draw)

    def pid(self) -> Column:
        return Column("pid", "PID", 7, 7, lambda row, _: Text(str(row.pid or ""), "dim"), True)

    def _machine(self, row: Row, width: int) -> Text:
        if row.machine:
            return Text(cut(row.machine, width, self._glyphs), "bold")
        return Text(cut(row.client, width, self._glyphs), "dim")

    def _client(self, row: Row, width: int) -> Text:
        return Text(cut(row.client, width, self._glyphs))

    def name(self, row: Row, width: int) -> Text:
        return Text(cut(row.name, width, self._glyphs, keep_end=True))

    def bar(self, row: Row, width: int) -> Text:
        share = row.share
        if share is None:
            return Text("")
        cells = width - 1 - _PERCENT
        halves = int(share * cells * 2)
        done, half = divmod(halves, 2)
        drawn = self._glyphs.done * done + self._glyphs.half * half
        bar = Text(drawn, STYLES.get(row.verdict, "green"))
        bar.append(self._glyphs.rest * (cells - done - half), "bright_black")
        # Rounded down: 100 % means that the client has it all.
        return bar.append(f" {int(share * 100):3}%", "default")

    def size(self, row: Row, width: int) -> Text:
        if row.total is None:
            return Text(units.size(row.sent))
        text = units.part(row.sent, row.total)
        return Text(text if len(text) <= width else units.size(row.total), "dim")

    def left(self, row: Row, _: int) -> Text:
        text = "" if row.left is None else units.duration(math.ceil(row.left), whole=True)
        return Text(text if len(text) <= 7 else "")

    def verdict(self, row: Row, width: int) -> Text:
        words = cut(in_words(row.verdict), width, self._glyphs)
        return Text(words, STYLES.get(row.verdict, "dim"))

    def end(self, row: Row, width: int) -> Text:
        text = _how(row)
        if len(text) > width and row.end:
            text = row.end.replace("_", " ")
        return Text(cut(text, width, self._glyphs), _ENDS.get(row.end, "yellow"))

    def seconds(self, row: Row, _: int) -> Text:
        return Text("" if row.seconds is None else units.duration(row.seconds))

    def pauses(self, row: Row, _: int) -> Text:
        return Text(str(row.pauses), "yellow") if row.pauses else Text("-", "dim")


def _how(row: Row) -> str:
    text = row.end_text or row.end.replace("_", " ")
    return f"{text} ({row.reason})" if row.reason else text
