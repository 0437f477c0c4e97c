"""Charts as inline SVG, drawn by matplotlib.

Invariant: a chart says nothing that does not follow from the table under it. Its colours are the page's (CSS
variables): it is readable in dark, light and print; series differ by dashes too. Labels are ASCII: a domain's other
characters are escaped there, since the font may lack them (the table has them as they are).

Matplotlib writes SVG with text as text where ``svg.fonttype`` is ``none``:
https://matplotlib.org/stable/users/explain/text/fonts.html
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

_INK = "#010203"
_GRID = "#010204"
_SERIES = ("#010205", "#010206", "#010207")
# What a colour of the drawing becomes on the page.
_PAGE_COLOURS = {
    _INK: "currentColor",
    _GRID: "var(--grid)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, 1)},
}
_DASHES = ("-", "--", ":")
_LABEL_CHARACTERS = 42
_WIDTH_INCHES = 7.2
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.parse_math": False,  # a dollar in a name is a dollar
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "grid.color": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def bars(chart: str, title: str, labels: Sequence[str], counts: Sequence[int]) -> Markup:
    """Horizontal bars, the first on top, each with its count; empty where there is none.

    Args:
        chart: the chart's id on the page.
        title: what a screen reader says in place of the drawing.
        labels: of the bars; may hold anything.
        counts: as many.
    """
    if not counts:
        return Markup("")
    with mpl.rc_context({**_STYLE, "svg.hashsalt": chart}):
        figure, axes = _drawing(height_inches=0.55 + 0.27 * len(counts))
        drawn = axes.barh(range(len(counts)), counts, color=_SERIES[0], height=0.62)
        axes.bar_label(drawn, [f"{count:,}" for count in counts], padding=4, color=_INK)
        axes.set_yticks(range(len(counts)), [ascii_label(label) for label in labels])
        axes.set_ylim(len(counts) - 0.4, -0.6)
        axes.set_xlim(0, max(1, *counts) * 1.15)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(_thousands())
        axes.grid(axis="x", linewidth=0.6)
        axes.tick_params(length=0)
        return _svg(figure, chart, title)


def lines(chart: str, title: str, at: pd.Series, series: Mapping[str, pd.Series], unit: str) -> Markup:
    """Up to three lines over time (UTC); empty where there is no time.

    Args:
        chart: the chart's id on the page.
        title: what a screen reader says in place of the drawing.
        at: the beginnings of the buckets.
        series: numbers by name.
        unit: of the numbers.
    """
    if at.empty:
        return Markup("")
    with mpl.rc_context({**_STYLE, "svg.hashsalt": chart}):
        figure, axes = _drawing(height_inches=2.5)
        times = list(at.dt.tz_localize(None).dt.to_pydatetime())
        for (name, numbers), colour, dashes in zip(series.items(), _SERIES, _DASHES, strict=False):
            marker = "o" if len(times) < 3 else ""
            axes.plot(
                times, numbers.to_list(), color=colour, linestyle=dashes, linewidth=1.8, marker=marker, label=name
            )
        axes.set_ylim(0, 1.08 * max(1, *(float(numbers.max()) for numbers in series.values())))
        axes.set_ylabel(unit)
        axes.yaxis.set_major_formatter(_thousands())
        if len(times) == 1:
            axes.set_xticks(times, [f"{times[0]:%Y-%m-%d %H:%M}"])
        else:
            locator = AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        axes.grid(axis="y", linewidth=0.6)
        if len(series) > 1:
            axes.legend(frameon=False, ncols=len(series), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
        return _svg(figure, chart, title)


def ascii_label(text: str) -> str:
    r"""The text as a chart shows it: short, and with every character beyond ASCII escaped as ``\u202e``."""
    label = text.encode("ascii", "backslashreplace").decode("ascii")
    label = "".join(one if " " <= one <= "~" else f"\\x{ord(one):02x}" for one in label)
    return label if len(label) <= _LABEL_CHARACTERS else f"{label[: _LABEL_CHARACTERS - 3]}..."


def _drawing(height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _thousands() -> FuncFormatter:
    return FuncFormatter(lambda number, _: f"{number:,.0f}" if number == int(number) else f"{number:,.2f}")


def _svg(figure: Figure, chart: str, title: str) -> Markup:
    """The drawing as an element of the page: its own ids, the page's colours, as wide as its place."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style type=.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{chart}-", text)
    for colour, on_the_page in _PAGE_COLOURS.items():
        text = text.replace(colour, on_the_page)
    view_box = re.search(r'viewBox="([^"]+)"', text)
    assert view_box is not None, "matplotlib gives each SVG a viewBox"
    opening = (
        f'<svg role="img" aria-labelledby="{chart}-title" viewBox="{view_box[1]}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{chart}-title">{escape(title)}</title>'
    )
    return Markup(re.sub(r"^<svg[^>]*>", lambda _: opening, text))  # noqa: S704 - matplotlib escapes labels as XML
