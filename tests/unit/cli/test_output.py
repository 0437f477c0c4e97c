"""Whatever somebody typed into a name stays text, and tables can be read at any width."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from rich.console import Console

from email_platform.cli.campaign import _CAMPAIGN_COLUMNS
from email_platform.cli.output import complain, note, print_json, say, show_rows, visible, visible_lines

HOSTILE = {
    "Sale [/b] [red]": "Sale [/b] [red]",
    "\x1b[2J\x1b[31mred": r"\x1b[2J\x1b[31mred",
    "a\rb\nc\td": r"a\rb\nc\td",
    "\x9b31m \x7f \x00": r"\x9b31m \x7f \x00",
    "abc\u202efdp.exe": r"abc\u202efdp.exe",
    "zero\u200bwidth\ufeff": r"zero\u200bwidth\ufeff",
    "line\u2028break\u2029": r"line\u2028break\u2029",
    "half \ud83d": r"half \ud83d",
    ":smile: ünï 日本": ":smile: ünï 日本",
}


def row(campaign_id: int, name: str, **changes: object) -> dict[str, object]:
    return {
        "campaign_id": campaign_id, "name": name, "status": "sending", "status_reason": None, "eligible": 1_000_000,
        "accepted": 999_000, "rejected": 900, "unknown": 100, "chunks": 100, "chunks_finished": 99, **changes,
    }  # fmt: skip


def shown(width: int, *rows: dict[str, object]) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system="truecolor", highlight=False)
    show_rows(_CAMPAIGN_COLUMNS, rows, as_json=False, nothing="none", console=console)
    text = file.getvalue()
    for style in ("\x1b[1m", "\x1b[0m"):  # of our headings
        text = text.replace(style, "")
    return text.splitlines()


@pytest.mark.parametrize(("text", "expected"), HOSTILE.items())
def test_nothing_in_a_text_acts_on_a_terminal(text: str, expected: str) -> None:
    assert visible(text) == expected
    assert visible_lines(text).replace("\n", r"\n").replace("\t", r"\t") == expected


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize(("text", "expected"), HOSTILE.items())
def test_a_listing_shows_a_hostile_name_in_its_own_row(width: int, text: str, expected: str) -> None:
    lines = shown(width, row(1, text, status_reason=text), row(2, "next"))
    assert all("\x1b" not in line for line in lines)
    assert [line.split()[0] for line in lines if line[:2].strip().isdigit()] == ["1", "2"]
    assert expected.replace(" ", "") in "".join(lines).replace(" ", "")


def test_a_row_of_eighty_columns_has_its_numbers_on_one_line_and_its_reason_below() -> None:
    reason = "too many bounces: 6.1 % of 1,000 accepted messages, more than the 5 % that are allowed"
    lines = shown(80, row(17, "Spring sale", status="paused", status_reason=reason), row(18, "Autumn"))
    assert all(len(line) <= 80 for line in lines)
    first = next(line for line in lines if line.startswith("17"))
    for text in ("Spring sale", "paused", "1,000,000", "999,000", "900", "100", "99/100"):
        assert text in first
    assert " ".join(" ".join(lines).split()).count(f"reason: {reason}") == 1
    assert sum("reason:" in line for line in lines) == 1


def test_a_row_of_a_hundred_and_sixty_columns_is_one_line() -> None:
    lines = shown(160, row(17, "Spring sale", status="paused", status_reason="wait for the lawyers"))
    assert len(lines) == 2
    assert "reason" in lines[0]
    assert "wait for the lawyers" in lines[1]


@pytest.mark.parametrize("width", [64, 80, 160])
def test_a_very_long_name_is_folded_and_nothing_of_it_is_lost(width: int) -> None:
    name = "".join(f"{number:04}" for number in range(100))
    lines = shown(width, row(1, name))
    assert all(len(line) <= max(width, 80) for line in lines)
    begins = lines[1].index("0000")
    assert "".join(line[begins:].split()[0] for line in lines[1:]) == name


def test_an_empty_listing_says_so_and_is_an_empty_array_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(80) == ["none"]
    show_rows(_CAMPAIGN_COLUMNS, [], as_json=True, nothing="none")
    assert json.loads(capsys.readouterr().out) == []


def test_json_is_one_ascii_document_with_times_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    print_json([{"name": name, "at": at} for name in HOSTILE])
    text = capsys.readouterr().out
    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text) == [{"name": name, "at": "2026-01-02T01:04:05+00:00"} for name in HOSTILE]


def test_a_time_without_a_zone_is_utc_wherever_the_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"at": datetime(2026, 1, 2, 3, 4, 5)})  # noqa: DTZ001
    assert json.loads(capsys.readouterr().out) == {"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).isoformat()}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_message_or_an_error_shows_a_hostile_text_escaped(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for print_line in (say, note, complain):
        print_line(text)
    captured = capsys.readouterr()
    expected = visible_lines(text).expandtabs()
    assert expected.replace(" ", "") in captured.out.replace(" ", "")
    assert captured.err.replace(" ", "").count(expected.replace(" ", "")) == 2
    assert "\x1b" not in captured.out + captured.err
