"""The small multiples: a point for the median, a line from the least to the greatest round."""

from __future__ import annotations

import contextlib
import io
import math
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullFormatter

from bench.report import OURS, Results, number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

# On a transparent ground; dark enough for white paper and light enough for a dark screen.
INK: Final = "#7a828e"
HIGHLIGHT: Final = "#d9662b"

PANELS: Final = (
    ("cpu", "cpu_middle", "CPU per GB, 256 MB file (s, less is better)", False),
    ("slow", "ttfb_p99", "newcomer's TTFB p99 (ms, log scale, less is better)", True),
    ("slow", "memory", "memory per connection (kB, less is better)", False),
    ("script", "script_rate", "scripts per second (more is better)", False),
)


def draw(results: Results) -> str:
    """The plot as SVG, of those panels that were measured."""
    with svg(9.5, 5.2) as (canvas, text):
        for place, panel in enumerate(PANELS, 1):
            if any(results.values(*panel[:2], server) for server in results.servers):
                _panel(canvas.add_subplot(2, 2, place), results, *panel)
    return text.getvalue()


@contextlib.contextmanager
def svg(width: float, height: float) -> Iterator[tuple[Canvas, io.StringIO]]:
    """Draw in the block, with the size in inches; the text is there after it."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "bench",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with mpl.rc_context(style):
        canvas, text = Canvas(figsize=(width, height), layout="constrained"), io.StringIO()
        yield canvas, text
        canvas.savefig(text, format="svg", transparent=True, metadata={"Date": None})


def _panel(
    axes: Axes, results: Results, measurement: str, key: str, title: str, is_log: bool
) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color=INK, alpha=0.25, linewidth=0.6)
    axes.tick_params(length=0)
    axes.set_yticks(range(len(results.servers)), results.servers)
    axes.set_ylim(len(results.servers) - 0.4, -0.6)
    everything: list[float] = []
    for row, server in enumerate(results.servers):
        values = results.values(measurement, key, server)
        middle = results.median(measurement, key, server)
        if middle is None:
            continue
        colour = HIGHLIGHT if server == OURS else INK
        axes.plot([min(values), max(values)], [row, row], color=colour, linewidth=1.6)
        axes.plot([middle], [row], marker="o", color=colour, markersize=6)
        axes.annotate(
            *(number(middle), (middle, row)),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            color=colour,
        )
        everything += values
    if is_log:
        axes.set_xscale("log")
        axes.set_xlim(
            10 ** math.floor(math.log10(min(everything))),
            10 ** math.ceil(math.log10(max(everything) * 1.2)),
        )
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(min(0, *everything), max(everything) * 1.12)
        axes.xaxis.set_major_formatter("{x:,g}")
