"""The page around charts and tables, and how values are written on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from email_platform.domain.figures import duration_words
from email_platform.domain.texts import visible

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("email_platform.reporting", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


_NO_CHART = Markup("")


@dataclass(frozen=True, slots=True)
class Table:
    """A table under a chart.

    Attributes:
        headings: of the columns; the first column names the row.
        rows: of texts.
        texts: how many columns from the left are words; the others are numbers.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, what is to be known of the figures, a chart and its table.

    Attributes:
        name: the section's id.
        heading: above it.
        words: one or two sentences.
        chart: an SVG, or empty.
        table: None, or one without rows, where there is nothing to show.
    """

    name: str
    heading: str
    words: str
    chart: Markup = _NO_CHART
    table: Table | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A report.

    Attributes:
        title: of the page.
        words: under the title.
        figures: the most important numbers, by name.
        sections: in order.
        currency: how current the figures are, in sentences.
    """

    title: str
    words: str
    figures: Mapping[str, str]
    sections: Sequence[Section]
    currency: Sequence[str]


def render(page: Page) -> str:
    """One HTML document that fetches nothing; every text of the page is escaped."""
    return _TEMPLATES.get_template("report.html.j2").render(page=page)


def text(value: Any) -> str:
    """Words of others on one line, with control and direction characters shown escaped; a dash where there is none."""
    return "-" if _missing(value) or value == "" else visible(str(value))


def count(value: Any) -> str:
    """A number of recipients."""
    return "-" if _missing(value) else f"{int(value):,}"


def number(value: Any) -> str:
    """A number that need not be whole."""
    return "-" if _missing(value) else f"{float(value):,.1f}"


def share(part: Any, whole: Any) -> str:
    """A part in percent; a dash without a whole. Not 0.0 % for some, nor 100 % for nearly all."""
    return "-" if _missing(part) or _missing(whole) or not whole else percent(float(part) / float(whole))


def percent(rate: Any) -> str:
    """A rate from 0 to 1 in percent; see `share`."""
    if _missing(rate):
        return "-"
    value = float(rate) * 100
    if 0 < value < 0.05:
        return "under 0.1 %"
    return "over 99.9 %" if 99.95 <= value < 100 else f"{value:.1f} %"


def write_page(html: Path, page: str) -> None:
    """Write the page as a file: whole or not at all, in the place of what was there."""
    part = html.with_name(f"{html.name}.part")
    part.write_text(page, encoding="utf-8")
    part.replace(html)


def moment(value: Any) -> str:
    """A time in UTC."""
    return "-" if _missing(value) else f"{_as_datetime(value):%Y-%m-%d %H:%M:%S} UTC"


def duration(seconds: Any) -> str:
    """A span of time in its largest two units."""
    return "-" if _missing(seconds) else duration_words(float(seconds))


def _as_datetime(value: Any) -> datetime:
    at: datetime = pd.Timestamp(value).to_pydatetime(warn=False)
    return at


def _missing(value: Any) -> bool:
    return bool(pd.isna(value))
