"""A CSV of suppressions comes back as it went out, and no line of a foreign one vanishes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_platform.domain.addresses import normalised_address
from email_platform.domain.suppression_reasons import SUPPRESSION_REASONS
from email_platform.events.suppression import Suppression, SuppressionRequest
from email_platform.events.suppression_csv import CsvProblem, export_csv, parse_csv

SENDERS = frozenset({3, 4})
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
printable = st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="@")
addresses = st.builds(
    "{}@{}".format, st.text(printable, min_size=1, max_size=20), st.text(printable, min_size=1, max_size=20)
)


def parse(text: str | bytes) -> list[SuppressionRequest | CsvProblem]:
    content = text.encode() if isinstance(text, str) else text
    return list(parse_csv(content.splitlines(keepends=True), SENDERS))


def test_a_spreadsheet_runs_no_cell_of_an_export() -> None:
    lines = list(export_csv([Suppression("+bob@example.com", 3, "unsubscribe", "=cmd()", NOW)]))
    assert lines[1].startswith("'+bob@example.com,3,unsubscribe,'=cmd()")


@given(
    st.lists(
        st.builds(
            Suppression,
            address=st.one_of(addresses, addresses.map("+{}".format), addresses.map("'+{}".format)),
            sender_id=st.sampled_from([None, 3, 4]),
            reason=st.sampled_from(SUPPRESSION_REASONS),
            source=st.one_of(st.sampled_from(["ses/default", "=x", "'", "a,b", 'a"b', "one_click"])),
            created_at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),  # noqa: DTZ001
        ),
        max_size=20,
    )
)
def test_what_was_exported_is_imported_with_address_scope_reason_source_and_time(found: list[Suppression]) -> None:
    content = "".join(export_csv(found)).encode().split(b"\n")
    parsed = list(parse_csv(content, SENDERS))
    assert [one for one in parsed if isinstance(one, CsvProblem)] == []
    assert parsed == [
        SuppressionRequest(
            normalised_address(one.address),
            one.reason,
            one.source,
            everywhere=one.sender_id is None,
            sender_id=one.sender_id or 0,
            created_at=one.created_at,
        )
        for one in found
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("no-address,,,", "no address"),
        (",manual,,", "no address"),
        ("a b@example.com,,,", "no address"),
        (f"{'x' * 320}@example.com,,,", "no address"),
        ("a@b.example,why,,", "reason is none of hard_bounce, complaint, unsubscribe, manual"),
        ("a@b.example,,x,", "sender_id is no number"),
        ("a@b.example,,99,", "there is no sender with this sender_id"),
        ("a@b.example,,,yesterday", "created_at must be an ISO 8601 time"),
        ("a@b.example,,,2026-01-01T00:00:00", "created_at must have an offset from UTC"),
        ("a@b.example,,,,more", "5 cells for 4 columns"),
        ('"a@b.example,,,', "unexpected end of data"),
        ('"a"b@b.example,,,', "',' expected after '\"'"),
        (b"\xffa@b.example,,,", "not UTF-8 at byte 1"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_text_and_touches_no_other(line: str | bytes, problem: str) -> None:
    content = line.encode() if isinstance(line, str) else line
    good = SuppressionRequest("ann@b.example", "manual", "import", everywhere=True)
    found = parse(b"address,reason,sender_id,created_at\n ANN@b.example ,,,\n" + content + b"\r\nann@b.example\n")
    assert found == [good, CsvProblem(3, problem, content.decode("utf-8", "replace")), good]


def test_a_byte_order_mark_and_empty_lines_are_no_trouble() -> None:
    found = parse(
        b"\xef\xbb\xbfaddress,source,created_at\r\n\r\na@b.example,old list,2026-01-01T00:00:00+02:00\r\n,,\r\n"
    )
    at = datetime(2025, 12, 31, 22, tzinfo=UTC)
    assert found == [SuppressionRequest("a@b.example", "manual", "old list", everywhere=True, created_at=at)]
    assert at.utcoffset() == timedelta(0)


def test_what_a_spreadsheet_leaves_around_an_address_is_no_part_of_it() -> None:
    found = parse("address\n\u00a0ann@example.com\u200b\n\ufeffANN@BÜCHER.example\t\n")
    assert [one.address for one in found if isinstance(one, SuppressionRequest)] == [
        "ann@example.com",
        "ann@xn--bcher-kva.example",
    ]


@pytest.mark.parametrize("content", ["", "email\na@b.example\n", '"address\n', "a@b.example\n"])
def test_a_file_whose_header_does_not_name_the_address_is_refused(content: str) -> None:
    with pytest.raises(ValueError, match="the first line must name the columns"):
        parse(content)
