"""A campaign's outcome becomes one small picture in Markdown, of counts alone."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image

from email_platform.reporting.outcome_picture import MOST_CHARACTERS, outcome_picture

COUNTS = {
    "accepted": 900, "bounced_hard": 30, "bounced_soft": 15, "blocked": 5, "rejected": 40, "unknown": 6,
    "abandoned": 4, "not_attempted": 50, "excluded": 1200,
}  # fmt: skip


def picture_of(markdown: str) -> Image.Image:
    found = re.fullmatch(r"!\[[^\]]*\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert found, markdown[:200]
    return Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")


def bar_of(picture: Image.Image) -> list[tuple[int, int, int]]:
    """The colours along the bar, a pixel each, from left to right."""
    return [picture.getpixel((x, 25)) for x in range(picture.width)]  # type: ignore[misc]


def test_each_lead_is_in_one_piece_which_is_named_with_its_count() -> None:
    markdown = outcome_picture(COUNTS)
    pieces = dict(re.findall(r"([a-z][a-z, ]*?) ([\d,]+\d|\d)(?:, |$)", markdown[2 : markdown.index("]")]))
    counts = {name: int(count.replace(",", "")) for name, count in pieces.items()}
    assert counts == {
        "accepted, no bounce": 850, "bounced": 50, "rejected": 40, "unknown": 10, "not attempted": 50, "left out": 1200,
    }  # fmt: skip
    assert sum(counts.values()) == 900 + 40 + 6 + 4 + 50 + 1200


def test_a_piece_is_as_long_as_its_share() -> None:
    halves = bar_of(picture_of(outcome_picture({**dict.fromkeys(COUNTS, 0), "accepted": 300, "rejected": 100})))
    green = sum(1 for red, green, _ in halves if green > red + 40)
    red = sum(1 for red, green, _ in halves if red > green + 40)
    assert green / (green + red) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("counts", [COUNTS, dict.fromkeys(COUNTS, 999_999_999), {**COUNTS, "accepted": 0}])
def test_it_stays_small_and_shows_no_fewer_than_none(counts: dict[str, int]) -> None:
    markdown = outcome_picture(counts)
    assert len(markdown) < MOST_CHARACTERS
    assert "-" not in markdown[: markdown.index("]")]
    assert picture_of(markdown).width > 300


def test_nobody_is_said_in_words() -> None:
    assert outcome_picture(dict.fromkeys(COUNTS, 0)) == "no recipients"
