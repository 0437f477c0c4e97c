"""A campaign's outcome as one small bar, for places that show Markdown and no page.

Invariant: counts and nothing else: no name, no address. Each lead is in one piece, and each piece is named with its
count under the bar, so that nobody needs to distinguish colours.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

_COLOURS = {
    "accepted, no bounce": "#2e7d4f",
    "bounced": "#e08a1e",
    "rejected": "#b3261e",
    "unknown": "#7b4fa3",
    "not attempted": "#9aa5b1",
    "left out": "#d5dae0",
}
_SIZE_INCHES = (5.6, 0.95)
_DOTS_PER_INCH = 110
MOST_CHARACTERS = 8_000
"""Of the Markdown: it is stored in Dagster's log with each event that carries it."""


def outcome_picture(counts: Mapping[str, int]) -> str:
    """Markdown with the picture in it as PNG, a few kB; in words where there is nobody to show.

    Args:
        counts: columns of the mart `campaign_summary`: accepted, bounced_hard, bounced_soft, blocked, rejected,
            unknown, abandoned, not_attempted and excluded.
    """
    pieces = {name: count for name, count in _pieces(counts).items() if count > 0}
    words = ", ".join(f"{name} {count:,}" for name, count in pieces.items())
    if not pieces:
        return "no recipients"
    drawn = io.BytesIO()
    with mpl.rc_context({"font.size": 8, "text.color": "#1f2933"}):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        begins = 0
        for name, count in pieces.items():
            axes.barh(0, count, left=begins, color=_COLOURS[name], label=f"{name} {count:,}")
            begins += count
        axes.set_xlim(0, begins)
        axes.set_axis_off()
        figure.legend(loc="outside lower center", ncols=3, frameon=False, handlelength=1, columnspacing=1.5)
        figure.savefig(drawn, format="png", dpi=_DOTS_PER_INCH)
    return f"![{words}](data:image/png;base64,{base64.b64encode(_small(drawn)).decode()})"


def _small(picture: io.BytesIO) -> bytes:
    """The same in 32 colours, which is a third of the bytes."""
    written = io.BytesIO()
    with Image.open(picture) as drawn:
        drawn.convert("RGB").quantize(32).save(written, format="png", optimize=True)
    return written.getvalue()


def _pieces(counts: Mapping[str, int]) -> Mapping[str, int]:
    bounced = counts["bounced_hard"] + counts["bounced_soft"] + counts["blocked"]
    return {
        # A message whose answer is unknown may have bounced too.
        "accepted, no bounce": max(0, counts["accepted"] - bounced),
        "bounced": bounced,
        "rejected": counts["rejected"],
        "unknown": counts["unknown"] + counts["abandoned"],
        "not attempted": counts["not_attempted"],
        "left out": counts["excluded"],
    }
