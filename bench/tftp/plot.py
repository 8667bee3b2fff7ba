"""CPU and throughput against the window: a point for the median, a line through a server's."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final

from bench.plot import HIGHLIGHT, INK, svg
from bench.report import OURS, Results
from bench.tftp.measure import CASES, LOCKSTEP, WINDOWS

if TYPE_CHECKING:
    from collections.abc import Container

    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

PANELS: Final = (
    ("single", 1, "cpu", "CPU per GB, 1 client (s, less is better)"),
    ("single", 1, "rate", "throughput, 1 client (MB/s, more is better)"),
    ("crowd", 200, "cpu", "CPU per GB, 200 clients (s, less is better)"),
    ("far", 1, "rate", "throughput, 1 client 1 ms away (MB/s, more is better)"),
)
_MARKERS: Final = "os^vDP"


def draw(results: Results, windowless: Container[str]) -> str:
    """The plot as SVG, of those panels that were measured."""
    with svg(9.5, 6.5) as (canvas, text):
        lines: dict[str, Line2D] = {}
        for place, (kind, clients, key, title) in enumerate(PANELS, 1):
            axes = canvas.add_subplot(2, 2, place)
            axes.set_title(title, fontsize=9, loc="left")
            for server, marker in zip(results.servers, _MARKERS, strict=False):
                points = _points(results, kind, clients, key, server)
                if server in windowless and points:
                    # The same for all.
                    points = dict.fromkeys(WINDOWS, statistics.median(points.values()))
                if points:
                    lines[server] = _line(axes, server, marker, points)
            _finish(axes)
        canvas.legend(
            list(lines.values()), list(lines), loc="outside lower center", ncols=6, frameon=False
        )
    return text.getvalue()


def _points(results: Results, kind: str, clients: int, key: str, server: str) -> dict[int, float]:
    """The median for each window."""
    found = {}
    for case in CASES:
        # In lockstep a crowd asks for other blocks than with a window, of much the same size.
        is_of_panel = (case.kind, case.clients) == (kind, clients) and case.blksize != 512
        middle = results.median(case.name, key, server)
        if is_of_panel and middle is not None:
            found[case.windowsize] = middle
    return found


def _line(axes: Axes, server: str, marker: str, points: dict[int, float]) -> Line2D:
    is_ours = server == OURS
    (line,) = axes.plot(
        *([WINDOWS.index(window) for window in points], list(points.values())),
        color=HIGHLIGHT if is_ours else INK,
        linewidth=1.8 if is_ours else 1,
        linestyle="-" if len(set(points.values())) > 1 else ":",
        marker=marker,
        markersize=5,
        zorder=3 if is_ours else 2,
    )
    return line


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
    axes.tick_params(length=0)
    labels = ["lockstep" if window == LOCKSTEP else str(window) for window in WINDOWS]
    axes.set_xticks(range(len(WINDOWS)), labels)
    axes.set_xlabel("window, blocks")
    axes.set_xlim(-0.3, len(WINDOWS) - 0.7)
    axes.set_ylim(bottom=0)
