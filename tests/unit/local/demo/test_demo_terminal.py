"""The demo's display: redrawn on a terminal, plain lines elsewhere, and a clear word on every count."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from email_platform.local.demo.terminal import (
    CampaignProgress,
    ProgressDisplay,
    demo_console,
    duration_text,
    print_reconciliation,
    print_table,
    progress_line,
)
from email_platform.staging.accounting import AccountingLine

ESCAPE = "\x1b"
BIG = CampaignProgress(
    campaign_id=1,
    name="Summer [bold]release[/bold]",
    status="sending",
    eligible=60_000,
    accepted=29_000,
    rejected=900,
    unknown=100,
    calls=600,
    recipients_per_second=4_321.4,
    eta_seconds=7.2,
    chunks_done=3,
    chunks_total=6,
)


class Ticks:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def plain() -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, width=200, highlight=False, force_terminal=False), written


def terminal() -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, width=200, highlight=False, force_terminal=True, color_system="standard"), written


def test_elsewhere_than_on_a_terminal_a_line_appears_at_each_new_status_and_every_few_seconds() -> None:
    console, written = plain()
    ticks = Ticks()
    with ProgressDisplay(console, plain_interval_seconds=5, monotonic_seconds=ticks) as display:
        for ticks.seconds in range(12):
            display.update([replace(BIG, accepted=int(ticks.seconds))])
        display.update([replace(BIG, status="sent")])
    lines = written.getvalue().splitlines()
    assert [line.split("|")[1].split(",")[0].strip() for line in lines] == [
        "0 accepted",
        "5 accepted",
        "10 accepted",
        "29",
    ]
    assert ": sent " in lines[-1]
    assert ESCAPE not in written.getvalue()


def test_the_last_state_of_a_campaign_is_shown_on_leaving_even_before_its_time() -> None:
    console, written = plain()
    with ProgressDisplay(console, monotonic_seconds=Ticks()) as display:
        display.update([BIG])
        display.update([replace(BIG, accepted=59_000)])
    assert "59,000 accepted" in written.getvalue().splitlines()[-1]
    assert len(written.getvalue().splitlines()) == 2


def test_a_campaign_that_does_not_change_is_shown_once() -> None:
    console, written = plain()
    ticks = Ticks()
    with ProgressDisplay(console, monotonic_seconds=ticks) as display:
        for ticks.seconds in range(30):
            display.update([replace(BIG, status="sent")])
    assert len(written.getvalue().splitlines()) == 1


def test_several_campaigns_have_lines_of_their_own() -> None:
    console, written = plain()
    with ProgressDisplay(console, monotonic_seconds=Ticks()) as display:
        display.update([BIG, replace(BIG, campaign_id=2, name="small", status="queued")])
        display.say("loading [3] objects")
    assert [line.split("'")[0] for line in written.getvalue().splitlines()] == [
        "campaign 1 ",
        "campaign 2 ",
        "loading [3] objects",
    ]


def test_on_a_terminal_the_display_is_redrawn_in_place_with_every_figure() -> None:
    console, written = terminal()
    with ProgressDisplay(console) as display:
        display.update([replace(BIG, status="queued")])
        display.update([BIG])
    shown = written.getvalue()
    assert ESCAPE in shown
    for figure in ("60,000", "29,000", "900", "100", "600", "4,321", "0:07", "3/6", "50.0", "sending", "[bold]release"):
        assert figure in shown


def test_a_narrow_terminal_still_shows_every_count_of_recipients() -> None:
    written = io.StringIO()
    console = Console(file=written, width=80, highlight=False, force_terminal=True, color_system=None)
    with ProgressDisplay(console) as display:
        display.update([replace(BIG, eligible=1_000_000, accepted=999_000)])
    last_row = next(line for line in reversed(written.getvalue().splitlines()) if "Summer" in line)
    for figure in ("1,000,000", "999,000", "900", "100", "4,321", "0:07"):
        assert figure in last_row


def test_an_error_while_the_display_is_up_leaves_the_terminal_in_order() -> None:
    console, written = terminal()

    def stop_while_shown() -> None:
        with ProgressDisplay(console) as display:
            display.update([BIG])
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stop_while_shown()
    assert written.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_a_campaigns_line_holds_every_figure_and_no_line_end() -> None:
    line = progress_line(replace(BIG, name="two\nlines"))
    assert line == (
        "campaign 1 'two lines': sending 50.0 % | 29,000 accepted, 900 rejected, 100 unknown of 60,000 | "
        "600 calls, 4,321/s, 0:07 left | chunks 3/6"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.6, "1:00"),
        (3_723, "1:02:03"),
        (None, "-"),
        (float("inf"), "-"),
        (float("nan"), "-"),
        (-1, "-"),
    ],
)
def test_a_duration_is_written_for_people(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


def test_an_empty_campaign_is_complete_only_when_it_is_sent() -> None:
    assert CampaignProgress(1, "x", "queued").percent == 0
    assert CampaignProgress(1, "x", "sent").percent == 100


def test_a_table_prints_numbers_with_separators_and_takes_nothing_for_markup() -> None:
    console, written = plain()
    rows = [("[red]a[/red]", 1_234_567, 0.5, None, True), ("b", 2, 1.0, "x", False)]
    print_table("Top [campaigns]", ["name", "rows", "share", "note", "done"], rows, console=console)
    shown = written.getvalue()
    for text in ("Top [campaigns]", "[red]a[/red]", "1,234,567", "0.50", " - ", "yes", "no"):
        assert text in shown
    assert ESCAPE not in shown


def test_an_empty_table_says_so_and_a_ragged_one_is_refused() -> None:
    console, written = plain()
    print_table("Bounces", ["name"], [], console=console)
    assert written.getvalue() == "Bounces: no rows\n"
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        print_table("Bounces", ["name"], [("a", "b")], console=console)


def test_the_reconciliation_says_ok_or_not_equal_for_every_line_and_all_in_all() -> None:
    good = AccountingLine("every staged row is loaded", ("staged", 60_000), ("loaded", 60_000))
    bad = AccountingLine("accepted recipients", ("ledger", 29_000), ("warehouse", 28_999))
    console, written = plain()
    assert print_reconciliation([good], console=console)
    assert "all 1 lines are OK" in written.getvalue()
    assert "NOT EQUAL" not in written.getvalue()
    console, written = plain()
    assert not print_reconciliation([good, bad], console=console)
    rows = written.getvalue().splitlines()
    assert next(row for row in rows if "accepted recipients" in row).rstrip(" │").endswith("NOT EQUAL")
    assert next(row for row in rows if "every staged row" in row).rstrip(" │").endswith("OK")
    assert "28,999" in written.getvalue()
    assert rows[-1] == "1 of 2 lines are NOT EQUAL"


def test_nothing_to_reconcile_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_reconciliation([], console=demo_console())
    assert capsys.readouterr().out == "nothing to reconcile\n"
