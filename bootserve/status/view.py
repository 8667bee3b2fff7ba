"""The screen of `bootserve status`: what servers have said, drawn for a terminal of a given size.

Pure: nothing is asked for here, and the same words on the same terminal give the same picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from bootserve.status import tables, units
from bootserve.status.layout import ASCII, UNICODE, Glyphs, cut
from bootserve.status.reading import Row, Server, read
from bootserve.watch.words import in_words

_STATES: Final = {"serving": "bold green", "draining": "bold yellow", "starting": "bold cyan"}

_MOST_REASONS: Final = 5
_RECENT_LEAST: Final = 5
"""Lines that what has ended gets on a screen that is too small for everything, its title and the
blank above it included."""


class View:
    """The screen as something that Rich prints; it is as high as the terminal, at most.

    Args:
        said: what each server has said, see `bootserve.remote.statuses`.
        now: seconds since 1970.
        notice: a sentence to put above everything.
    """

    def __init__(self, said: object, now: float, notice: str = "") -> None:
        self._said = said
        self._now = now
        self._notice = notice

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = ASCII if options.ascii_only else UNICODE
        servers = read(self._said, ascii_only=options.ascii_only)
        yield from draw(
            servers, options.max_width, options.height, self._now, glyphs, notice=self._notice
        )


def draw(
    servers: Sequence[Server],
    width: int,
    height: int | None,
    now: float,
    glyphs: Glyphs,
    *,
    notice: str = "",
) -> list[Text]:
    """Return the lines of the screen.

    Args:
        width, height: cells and lines of the terminal; without a height, everything is shown.
    """
    rows = sorted(
        chain.from_iterable(server.transfers for server in servers),
        key=lambda row: row.number,
    )
    if len(servers) > 1:
        order = {server.pid: place for place, server in enumerate(servers)}
        rows.sort(key=lambda row: order.get(row.pid, 0))
    recent = sorted(
        chain.from_iterable(server.recent for server in servers),
        key=lambda row: -((row.started or 0.0) + (row.seconds or 0.0)),
    )
    lines = _header(servers, rows, width, glyphs)
    if notice:
        lines.insert(0, Text(notice, "bold yellow"))
    flying, ending = len(rows), len(recent)
    if height is not None:
        flying, ending = _share_out(len(rows), len(recent), height - len(lines))
    if rows and flying:
        shown = rows if flying >= len(rows) else tables.most_urgent(rows, flying)
        lines += ["", *tables.in_flight(shown, width, glyphs, with_pid=len(servers) > 1)]
        if rest := len(rows) - len(shown):
            lines.append(Text(f"and {rest:,} more", "dim"))
    if recent and ending:
        lines += ["", *tables.ended(recent[:ending], width, now, glyphs)]
    return _fitted(lines, width, height, glyphs)


def _share_out(flying: int, ending: int, height: int) -> tuple[int, int]:
    """Return how many rows of either table fit into so many lines."""
    frame = 2  # a blank line and the titles
    wanted = flying + frame if flying else 0
    for_ended = ending + frame if ending else 0
    if wanted + for_ended <= height:
        return flying, ending
    for_ended = min(for_ended, max(_RECENT_LEAST, height - wanted))
    if height - for_ended < frame + 2 and flying:
        for_ended = 0
    room = height - for_ended - frame
    # "And 12 more" takes a line of its own.
    shown = flying if flying <= room else max(room - 1, 0)
    return shown, max(for_ended - frame, 0)


def _header(
    servers: Sequence[Server], rows: Sequence[Row], width: int, glyphs: Glyphs
) -> list[Text | str]:
    lines: list[Text | str] = []
    for server in servers:
        lines += _of_server(server, glyphs, alone=len(servers) == 1)
    lines.append(_totals(rows, glyphs))
    is_one = sum(not server.error for server in servers) < 2
    reasons = [
        f"! {reason}" if is_one or server.pid is None else f"! pid {server.pid}: {reason}"
        for server in servers
        for reason in server.reasons
    ]
    lines += [Text(cut(reason, width, glyphs), "bold red") for reason in reasons[:_MOST_REASONS]]
    if len(reasons) > _MOST_REASONS:
        lines.append(Text(f"! and {len(reasons) - _MOST_REASONS} more", "bold red"))
    return lines


def _of_server(server: Server, glyphs: Glyphs, *, alone: bool) -> list[Text | str]:
    if server.error:
        return [Text(server.error, "bold red")]
    parts = [Text(f"bootserve {server.version}".rstrip(), "bold")]
    if server.state:
        parts.append(Text(server.state, _STATES.get(server.state, "bold")))
    if server.pid is not None:
        parts.append(Text(f"pid {server.pid}"))
    if server.uptime is not None:
        parts.append(Text(f"up {units.duration(server.uptime)}"))
    if server.state != "draining":
        for name, where in (("HTTP", server.http), ("TFTP", server.tftp)):
            if where:
                parts.append(Text(f"{name} {' '.join(where)}", "dim"))
    if not alone:
        parts.append(Text(f"{len(server.transfers):,} in flight"))
    return [_joined(parts, glyphs)]


def _totals(rows: Sequence[Row], glyphs: Glyphs) -> Text:
    if not rows:
        return Text("nothing is in flight", "dim")
    parts = [
        Text(f"{len(rows):,} in flight", "bold"),
        Text(units.rate(sum(row.rate for row in rows)), "bold"),
    ]
    parts += [
        Text(f"{count:,} {in_words(verdict)}", tables.STYLES.get(verdict, ""))
        for verdict, count in tables.counts(rows)
    ]
    return _joined(parts, glyphs)


def _joined(parts: Iterable[Text], glyphs: Glyphs) -> Text:
    return Text(f" {glyphs.dot} ", "dim").join(parts)


def _fitted(
    lines: Iterable[Text | str], width: int, height: int | None, glyphs: Glyphs
) -> list[Text]:
    found = []
    for line in list(lines)[:height]:
        text = Text(line) if isinstance(line, str) else line
        text.no_wrap, text.overflow = True, "crop"
        if text.cell_len > width:
            text.truncate(max(width - len(glyphs.cut), 0), overflow="crop")
            text.append(glyphs.cut[:width], "dim")
        found.append(text)
    return found
