"""Frames become pages: escaped, small, readable without colours, sight or a network."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from email_platform.reporting.campaign_report import campaign_report
from email_platform.reporting.charts import ascii_label, bars, lines
from email_platform.reporting.frames import MOST_BUCKETS, CampaignFrames, OverviewFrames, bucket_seconds, without_gaps
from email_platform.reporting.overview_report import overview_report
from email_platform.reporting.page import count, duration, percent, share, text
from tests.unit.reporting.page_reading import PageText

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
HOSTILE = '<script>alert("1")</script>\u202e\u200f\x00 $x^2$ &amp; {{ 7 * 7 }} 😀'
SHOWN = '<script>alert("1")</script>\\u202e\\u200f\\x00 $x^2$ &amp; {{ 7 * 7 }} 😀'
COUNTS = (
    *("accepted", "rejected", "unknown", "abandoned", "delivered", "bounced_hard", "bounced_soft", "blocked"),
    *("rejected_later", "complained", "opened", "clicked", "unsubscribed"),
)
REACTIONS = ("delivered", "opened", "clicked", "bounced", "complained", "unsubscribed")


def summary_row(**values: Any) -> dict[str, Any]:
    return {
        "campaign_id": 17, "name": "Spring", "owner_id": 3, "owner_name": "Ada", "status": "sent",
        "status_reason": None, "is_deleted": 0, "considered": 0, "eligible": 0, "excluded": 0,
        "excluded_suppressed": 0, "excluded_unsubscribed": 0, "excluded_invalid_address": 0,
        "excluded_duplicate_address": 0, "excluded_unreadable": 0, "not_attempted": 0, "not_loaded": 0,
        **dict.fromkeys(COUNTS, 0), "first_sent_at": None, "last_sent_at": None, "duration_seconds": None,
        "emails_per_minute": None, "delivered_rate": None, "open_rate": None, "click_rate": None,
        "unsubscribe_rate": None, "complaint_rate": None, "as_of": NOON, "snapshot_at": NOON, **values,
    }  # fmt: skip


def frames(
    rows: int = 0, *, domain: str = "example.org", domains: int = 0, reason: str = "5.1.1", each: int = 1, **values: Any
) -> CampaignFrames:
    """A campaign with so many buckets and domains, each count as large as given."""
    start = int(NOON.timestamp())
    return CampaignFrames(
        summary=pd.DataFrame([summary_row(**values)]),
        sending_step_seconds=60,
        sending=pd.DataFrame(
            [(start + 60 * at, each, 0) for at in range(rows)], columns=["bucket", "accepted", "rejected"]
        ),
        reactions_step_seconds=3600,
        reactions=pd.DataFrame(
            [(start + 3600 * at, *[each] * len(REACTIONS)) for at in range(rows)], columns=["bucket", *REACTIONS]
        ),
        domains=pd.DataFrame(
            [(f"{domain}{at or ''}", *[each] * len(COUNTS)) for at in range(domains)],
            columns=["recipient_domain", *COUNTS],
        ),
        reasons=pd.DataFrame(
            [("bounced_hard", "address", reason, each)] * bool(domains),
            columns=["problem", "reason_class", "reason_code", "recipients"],
        ),
    )


def test_words_of_others_are_text_and_turn_no_direction() -> None:
    html = campaign_report(
        frames(3, name=HOSTILE, owner_name=HOSTILE, status_reason=HOSTILE, domain=HOSTILE, domains=1, reason=HOSTILE)
    )
    page = PageText.of(html)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00]", html)
    assert f"Campaign 17: {SHOWN}" in page.texts
    assert page.tables["domains"][0][0] == SHOWN
    assert page.tables["reasons"][0][2] == SHOWN
    assert any(SHOWN in words for words in page.texts if words.startswith("Of "))


def test_a_page_asks_the_network_for_nothing() -> None:
    page = PageText.of(campaign_report(frames(3, domains=2)))
    assert {"script", "link", "img", "iframe", "object", "image"}.isdisjoint(tag for tag, _ in page.tags)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("href", "src", "xlink:href", "action"):
                assert value is not None
                assert value.startswith("#"), (tag, name, value)
    [policy] = [given["content"] for _, given in page.tags if given.get("http-equiv") == "content-security-policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_a_screen_reader_finds_a_name_and_a_table_for_each_chart_and_ids_are_unique() -> None:
    page = PageText.of(campaign_report(frames(3, domains=2, considered=5, eligible=4, delivered=4, unsubscribed=1)))
    charts = [given for tag, given in page.tags if tag == "svg"]
    assert len(charts) == 7 == len(page.tables)
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    assert all(given["role"] == "img" and given["aria-labelledby"] in ids for given in charts)
    for tag, given in page.tags:
        if given.get("href", "#report") != "#report" and tag == "a":
            assert (given["href"] or "").removeprefix("#") in ids
    scrolled = [given for _, given in page.tags if given.get("role") == "region"]
    assert len(scrolled) == 7
    assert all(given["tabindex"] == "0" and given["aria-label"] for given in scrolled)
    headings = [given for tag, given in page.tags if tag == "th"]
    assert all(given["scope"] in ("row", "col") for given in headings)


def test_a_chart_takes_its_colours_from_the_page() -> None:
    html = campaign_report(frames(3, domains=2))
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        # A colour of its own would be lost in the dark.
        assert not re.findall(r"#[0-9a-f]{6}", svg)
        assert "currentColor" in svg
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_a_million_recipients_make_no_larger_page_than_the_most_buckets_allow() -> None:
    full = {"rows": MOST_BUCKETS, "domains": 16, "domain": "a" * 250}
    small, large = (campaign_report(frames(each=each, **full)) for each in (1, 1_000_000))  # type: ignore[arg-type]
    assert len(large) < 200_000
    assert len(large) < 1.2 * len(small)


def test_a_campaign_without_anything_has_a_page_that_shows_nothing_wrong() -> None:
    html = campaign_report(frames())
    page = PageText.of(html)
    assert html.count("Nothing to show yet.") == 5
    assert "nan" not in " ".join(page.texts).lower()
    assert page.row("audience", "to be mailed") == ["to be mailed", "0", "-"]


def test_what_is_not_loaded_is_shown() -> None:
    html = campaign_report(frames(not_loaded=1234, not_attempted=1234, eligible=2000))
    assert "1,234 deliveries are staged and not counted here" in html
    assert "Every delivery that is staged is counted" not in html


def test_an_overview_of_more_campaigns_than_it_shows_says_so() -> None:
    one = frames(2, domains=1)
    totals = {
        "campaigns": 5_000,
        "eligible": 10,
        "not_loaded": 0,
        **dict.fromkeys(COUNTS, 2),
        "snapshot_at": NOON,
        "as_of": NOON,
    }
    days = pd.DataFrame(
        [(86_400 * 20_000, 2, 1, 1, 0)], columns=["bucket", "accepted", "delivered", "opened", "bounced"]
    )
    campaigns = pd.DataFrame([summary_row(campaign_id=number, name=HOSTILE) for number in (2, 1)])
    html = overview_report(OverviewFrames(pd.DataFrame([totals]), campaigns, 86_400, days, one.domains, one.reasons))
    page = PageText.of(html)
    assert "The newest 2 of 5,000" in html
    assert [row[:2] for row in page.tables["campaigns"]] == [["2", SHOWN], ["1", SHOWN]]
    assert page.tables["days"] == [["2024-10-04", "2", "1", "1", "0"]]


@pytest.mark.parametrize("span", [0, 1, 59, 60, 3_599, 86_400, 40 * 86_400, 20 * 365 * 86_400, 2**40])
def test_a_line_has_no_more_buckets_than_can_be_told_apart(span: int) -> None:
    step = bucket_seconds(span)
    for start in (0, step - 1):  # buckets begin at multiples of the step
        assert (start + span) // step - start // step + 1 <= MOST_BUCKETS + 1
    assert bucket_seconds(span, least_seconds=86_400) >= 86_400


def test_buckets_without_rows_are_zeros_and_in_order() -> None:
    filled = without_gaps(pd.DataFrame({"bucket": [180, 0], "opened": [2, 1]}), 60)
    assert filled["opened"].to_list() == [1, 0, 0, 2]
    assert filled["at"].iloc[3] == pd.Timestamp("1970-01-01 00:03", tz="UTC")


def test_a_label_of_a_chart_is_short_and_ascii() -> None:
    assert ascii_label("дом\u202e\n") == "\\u0434\\u043e\\u043c\\u202e\\x0a"
    assert ascii_label("a" * 300) == "a" * 39 + "..."


def test_charts_without_data_are_left_out_and_one_point_is_drawn() -> None:
    assert bars("c", "t", [], []) == ""
    at = pd.Series(pd.to_datetime([0], unit="s", utc=True))
    assert lines("c", "t", at.head(0), {"n": pd.Series(dtype=int)}, "u") == ""
    assert "1970-01-01 00:00" in lines("c", "t", at, {"n": pd.Series([1])}, "u")
    assert "&lt;b&gt;" in bars("c", "a <b> title", ["<b>"], [0])


def test_numbers_are_written_as_people_read_them() -> None:
    assert [count(1_234_567), count(None), text(None), text("")] == ["1,234,567", "-", "-", "-"]
    assert [share(1, 3), share(1, 0), share(0, 5), share(5, 5)] == ["33.3 %", "-", "0.0 %", "100.0 %"]
    assert [share(1, 10**6), share(10**6 - 1, 10**6), percent(float("nan"))] == ["under 0.1 %", "over 99.9 %", "-"]
    assert [duration(0.25), duration(59), duration(61), duration(3600), duration(90_000), duration(864_000)] == [
        "0.2 s", "59 s", "1 min 1 s", "1 h", "25 h", "10 d",
    ]  # fmt: skip
