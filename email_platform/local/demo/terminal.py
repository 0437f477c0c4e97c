"""What the terminal shows of the demo: progress while campaigns are sent, then tables and the accounting.

Invariant: on a terminal the display is redrawn in place; anywhere else (a file, a pipe, CI) the same facts
appear as plain lines, seldom, without escape codes. Nothing of a campaign's name is taken for markup.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from email_platform.staging.accounting import AccountingLine

PLAIN_INTERVAL_SECONDS = 5.0
_BAR_COLUMNS = 20
_PLAIN_COLUMNS = 160
_WIDE_COLUMNS = 120  # a narrower terminal goes without bar, calls and chunks
_STATUS_STYLES: Mapping[str, str] = {
    "queued": "dim",
    "sending": "cyan",
    "paused": "yellow",
    "sent": "green",
    "cancelled": "yellow",
    "failed": "bold red",
}

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """How far one campaign is.

    Attributes:
        status: as in ``campaign.status``.
        eligible: recipients of the manifest; 0 before the audience is frozen.
        accepted, rejected, unknown: recipients so far.
        calls: provider calls that reached an end so far.
        recipients_per_second: over the last moments.
        eta_seconds: until the last recipient, or None where it cannot be estimated.
    """

    campaign_id: int
    name: str
    status: str
    eligible: int = 0
    accepted: int = 0
    rejected: int = 0
    unknown: int = 0
    calls: int = 0
    recipients_per_second: float = 0.0
    eta_seconds: float | None = None
    chunks_done: int = 0
    chunks_total: int = 0

    @property
    def done(self) -> int:
        """Recipients that reached an end, known or not."""
        return self.accepted + self.rejected + self.unknown

    @property
    def percent(self) -> float:
        """Share of the eligible recipients that reached an end; 100 for a finished campaign without any."""
        if self.eligible == 0:
            return 100.0 if self.status == "sent" else 0.0
        return 100.0 * self.done / self.eligible


class ProgressDisplay:
    """Shows campaigns' progress; use it in a ``with`` and call `update` as often as you like.

    Not thread-safe on anything but a terminal: call `update` from one thread.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        plain_interval_seconds: float = PLAIN_INTERVAL_SECONDS,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bind the console.

        Args:
            console: where to draw; standard output by default.
            plain_interval_seconds: off a terminal, the time between two lines of the same campaign and status.
            monotonic_seconds: the clock for it.
        """
        self.console = console or demo_console()
        self._plain_interval_seconds = plain_interval_seconds
        self._monotonic_seconds = monotonic_seconds
        self._live: Live | None = None
        self._shown: dict[int, tuple[CampaignProgress, float]] = {}
        self._campaigns: Sequence[CampaignProgress] = ()
        self._unshown: dict[int, CampaignProgress] = {}

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=8, get_renderable=self._table)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, traceback)
            self._live = None
        for campaign in self._unshown.values():  # the last word on each campaign is never left out
            self._print_line(campaign)
        self._unshown.clear()

    def update(self, campaigns: Sequence[CampaignProgress]) -> None:
        """Show this state: at once on a terminal; elsewhere each new status, and the rest every few seconds."""
        self._campaigns = tuple(campaigns)
        if self._live is not None:
            return  # the display's own thread redraws
        now_seconds = self._monotonic_seconds()
        for campaign in campaigns:
            shown, shown_seconds = self._shown.get(campaign.campaign_id, (None, now_seconds))
            if campaign == shown:
                continue
            due = now_seconds - shown_seconds >= self._plain_interval_seconds
            if shown is None or campaign.status != shown.status or due:
                self._shown[campaign.campaign_id] = (campaign, now_seconds)
                self._unshown.pop(campaign.campaign_id, None)
                self._print_line(campaign)
            else:
                self._unshown[campaign.campaign_id] = campaign

    def say(self, message: str) -> None:
        """Print one line above the display."""
        self.console.print(Text(message), soft_wrap=True)

    def _print_line(self, campaign: CampaignProgress) -> None:
        self.console.print(Text(progress_line(campaign)), soft_wrap=True)

    def _table(self) -> Table:
        wide = self.console.width >= _WIDE_COLUMNS
        table = Table(box=None, pad_edge=False, expand=False)
        table.add_column("campaign", max_width=44)  # the only one that may shrink
        table.add_column("status", no_wrap=True)
        if wide:
            table.add_column("", no_wrap=True)
        for heading in ("%", "eligible", "accepted", "rejected", "unknown", "per s", "left"):
            table.add_column(heading, no_wrap=True, justify="right")
        if wide:
            table.add_column("calls", no_wrap=True, justify="right")
            table.add_column("chunks", no_wrap=True, justify="right")
        for campaign in self._campaigns:
            bar = ProgressBar(total=100.0, completed=campaign.percent, width=_BAR_COLUMNS)
            calls_and_chunks = (f"{campaign.calls:,}", f"{campaign.chunks_done}/{campaign.chunks_total}")
            table.add_row(
                Text(f"{campaign.campaign_id} {campaign.name}", overflow="ellipsis", no_wrap=True),
                Text(campaign.status, style=_STATUS_STYLES.get(campaign.status, "")),
                *((bar,) if wide else ()),
                f"{campaign.percent:.1f}",
                f"{campaign.eligible:,}",
                f"{campaign.accepted:,}",
                Text(f"{campaign.rejected:,}", style="yellow" if campaign.rejected else ""),
                Text(f"{campaign.unknown:,}", style="bold red" if campaign.unknown else ""),
                f"{campaign.recipients_per_second:,.0f}",
                duration_text(campaign.eta_seconds),
                *(calls_and_chunks if wide else ()),
            )
        return table


def demo_console() -> Console:
    """Standard output; lines are not folded where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_COLUMNS)


def progress_line(campaign: CampaignProgress) -> str:
    """One campaign on one plain line."""
    return (
        f"campaign {campaign.campaign_id} {' '.join(campaign.name.split())!r}: {campaign.status} "
        f"{campaign.percent:.1f} % | {campaign.accepted:,} accepted, {campaign.rejected:,} rejected, "
        f"{campaign.unknown:,} unknown of {campaign.eligible:,} | {campaign.calls:,} calls, "
        f"{campaign.recipients_per_second:,.0f}/s, {duration_text(campaign.eta_seconds)} left | "
        f"chunks {campaign.chunks_done}/{campaign.chunks_total}"
    )


def duration_text(seconds: float | None) -> str:
    """``1:02:03`` or ``2:03``; ``-`` where it is unknown."""
    if seconds is None or not 0 <= seconds < 360_000:  # over 100 hours, infinite or NaN: unknown
        return "-"
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole_seconds:02}" if hours else f"{minutes}:{whole_seconds:02}"


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, console: Console | None = None
) -> None:
    """Print rows under their headings; numbers to the right with thousands separated, None as ``-``.

    Raises:
        ValueError: a row has not one cell a column.
    """
    console = console or demo_console()
    table = Table(title=Text(title, style="bold"), title_justify="left")
    for index, column in enumerate(columns):
        numeric = any(isinstance(row[index], int | float) for row in rows if index < len(row))
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"table {title!r}: a row has {len(row)} cells for {len(columns)} columns")
        table.add_row(*(Text(_cell_text(cell)) for cell in row))
    if rows:
        console.print(table)
    else:
        console.print(Text(f"{title}: no rows"))


def print_reconciliation(lines: Sequence[AccountingLine], *, console: Console | None = None) -> bool:
    """Print each accounting line with both counts and OK or NOT EQUAL; returns whether all of them hold."""
    console = console or demo_console()
    table = Table(title=Text("Accounting", style="bold"), title_justify="left")
    table.add_column("what must be equal")
    for side in ("one count", "other count"):
        table.add_column(side)
        table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for line in lines:
        verdict = Text("OK", style="green") if line.holds else Text("NOT EQUAL", style="bold red")
        table.add_row(
            Text(line.name),
            Text(line.left[0]),
            f"{line.left[1]:,}",
            Text(line.right[0]),
            f"{line.right[1]:,}",
            verdict,
        )
    broken = sum(not line.holds for line in lines)
    if lines:
        console.print(table)
        summary = f"{broken} of {len(lines)} lines are NOT EQUAL" if broken else f"all {len(lines)} lines are OK"
    else:
        summary = "nothing to reconcile"
    console.print(Text(summary, style="bold red" if broken else "green"))
    return broken == 0


def _cell_text(cell: Cell) -> str:
    match cell:
        case None:
            return "-"
        case bool():
            return "yes" if cell else "no"
        case int():
            return f"{cell:,}"
        case float():
            return f"{cell:,.2f}"
        case str():
            return cell
