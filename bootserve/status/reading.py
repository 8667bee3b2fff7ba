"""What servers have said, read so that nothing in it can surprise the one who shows it.

A server may be older or newer than this program: what is missing or is of another type is not
known, which is no error. Strings come from the network in the end and leave here escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bootserve.text import printable

_MOST: Final = 1e18
"""Bytes or seconds beyond which a figure is taken for none."""


@dataclass(frozen=True, slots=True)
class Row:
    """One transfer, see `bootserve.watch.report.Entry`. Empty or ``None``: not known."""

    pid: int | None
    number: int
    protocol: str
    client: str
    machine: str
    name: str
    sent: float
    total: float | None
    started: float | None
    seconds: float | None
    rate: float
    mean_rate: float
    pauses: int
    verdict: str
    end: str
    end_text: str
    reason: str

    @property
    def share(self) -> float | None:
        """How much of it the client has, from 0 to 1."""
        if self.total is None:
            return None
        return min(self.sent / self.total, 1.0) if self.total > 0 else 1.0

    @property
    def left(self) -> float | None:
        """Seconds until it is complete at this rate; not known below a byte in ten seconds."""
        if self.total is None or self.rate < 0.1:
            return None
        return max(self.total - self.sent, 0.0) / self.rate


@dataclass(frozen=True, slots=True)
class Server:
    """One process. ``error`` is why it has not said more."""

    pid: int | None
    version: str
    state: str
    uptime: float | None
    http: tuple[str, ...]
    tftp: tuple[str, ...]
    reasons: tuple[str, ...]
    transfers: tuple[Row, ...]
    recent: tuple[Row, ...]
    error: str


def read(said: object, *, ascii_only: bool = False) -> list[Server]:
    """Return the servers that have said this: one that serves first, then by process id.

    Args:
        ascii_only: escape whatever else there is in strings.
    """
    reader = _Reader(ascii_only)
    servers = [reader.server(each) for each in _objects(said)]
    return sorted(servers, key=lambda server: (server.state != "serving", server.pid or 0))


class _Reader:
    def __init__(self, ascii_only: bool) -> None:
        self._ascii_only = ascii_only

    def server(self, said: Mapping[str, Any]) -> Server:
        health = said.get("health")
        reasons = health.get("reasons") if isinstance(health, dict) else None
        pid = _whole(said.get("pid"))
        return Server(
            pid=pid,
            version=self._text(said.get("version")),
            state=self._text(said.get("state")),
            uptime=_figure(said.get("uptime")),
            http=self._texts(said.get("http")),
            tftp=self._texts(said.get("tftp")),
            reasons=self._texts(reasons),
            transfers=tuple(self._row(each, pid) for each in _objects(said.get("transfers"))),
            recent=tuple(self._row(each, pid) for each in _objects(said.get("recent"))),
            error=self._text(said.get("error")),
        )

    def _row(self, said: Mapping[str, Any], pid: int | None) -> Row:
        return Row(
            pid=pid,
            number=_whole(said.get("id")) or 0,
            protocol=self._text(said.get("protocol")).upper(),
            client=self._text(said.get("client")),
            machine=self._text(said.get("machine")),
            name=self._text(said.get("name")),
            sent=_figure(said.get("sent")) or 0.0,
            total=_figure(said.get("total")),
            started=_figure(said.get("started")),
            seconds=_figure(said.get("seconds")),
            rate=_figure(said.get("rate")) or 0.0,
            mean_rate=_figure(said.get("mean_rate")) or 0.0,
            pauses=_whole(said.get("pauses")) or 0,
            verdict=self._text(said.get("verdict")),
            end=self._text(said.get("end")),
            end_text=self._text(said.get("end_text")),
            reason=self._text(said.get("reason")),
        )

    def _text(self, value: object) -> str:
        if not isinstance(value, str):
            return ""
        text = printable(value)
        if self._ascii_only:
            text = text.encode("ascii", "backslashreplace").decode()
        return text

    def _texts(self, value: object) -> tuple[str, ...]:
        found = value if isinstance(value, list) else []
        return tuple(text for each in found if (text := self._text(each)))


def _objects(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        yield from (each for each in value if isinstance(each, dict))


def _figure(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared before it is converted: an int may be beyond what a float holds.
    if not 0 <= value <= _MOST or not math.isfinite(value):
        return None
    return float(value)


def _whole(value: object) -> int | None:
    return int(found) if (found := _figure(value)) is not None else None
