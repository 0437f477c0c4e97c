"""`email-platform report …`: reports that people look at, as files.

Invariant: a file is written whole or not at all; a report that was there stays until the new one is complete.
Drivers and the drawing library are imported inside the commands: help and shell completion do not wait for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from email_platform.cli.output import say
from email_platform.settings import Settings

REPORT_TIMEOUT_SECONDS = 120.0
"""How long one question to the marts may take: more than a look-up, since a campaign may have a million rows."""


class ShowByDefault(TyperGroup):
    """`report 17 …` and `report --all …` are `report show 17 …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `show` before arguments that name no command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=ShowByDefault,
    no_args_is_help=True,
    help="Reports as files: `report 17 --html FILE`, `report --all --html FILE`, `report export MART`.",
)


@app.callback()
def main() -> None:
    """Reports as files: `report 17 --html FILE`, `report --all --html FILE`, `report export MART`."""


@app.command()
def show(
    html: Annotated[Path, typer.Option(help="Write the page here; a file that is there is replaced.", dir_okay=False)],
    campaign: Annotated[int | None, typer.Argument(help="The campaign's id.", min=1, max=2**63 - 1)] = None,
    every: Annotated[bool, typer.Option("--all", help="An overview of all campaigns instead.")] = False,
) -> None:
    """Write a campaign's report, or an overview of all campaigns, as one HTML file.

    The word `show` may be left out. The file needs no network: charts are inside, with a table under each. Its figures
    are those of the reports' last refresh, and it says how current they are.
    """
    if (campaign is None) != every:
        raise typer.BadParameter("give a campaign's id or --all")
    from email_platform.adapters.assembly import open_warehouse
    from email_platform.adapters.clickhouse.report_frames import read_campaign, read_overview
    from email_platform.reporting.campaign_report import campaign_report
    from email_platform.reporting.overview_report import overview_report
    from email_platform.reporting.page import write_page

    with open_warehouse(Settings.load(), REPORT_TIMEOUT_SECONDS) as warehouse:
        if campaign is not None:
            page = campaign_report(read_campaign(warehouse, campaign))
        else:
            page = overview_report(read_overview(warehouse))
    write_page(html, page)
    say(f"wrote {html} ({len(page.encode()):,} bytes)")


@app.command()
def export(
    mart: Annotated[str, typer.Argument(help="The mart: campaign_summary, campaign_recipients, email ...")],
    out: Annotated[Path, typer.Option(help="Write the rows here; a file that is there is replaced.", dir_okay=False)],
    form: Annotated[
        Literal["csv", "parquet"], typer.Option("--format", help="csv: UTF-8, times in UTC; parquet: with types.")
    ] = "csv",
    campaign: Annotated[int | None, typer.Option(help="Only this campaign's rows.", min=1, max=2**63 - 1)] = None,
) -> None:
    """Write the rows of a mart as a CSV or Parquet file, as they come: any size, in constant memory."""
    from email_platform.adapters.assembly import open_warehouse
    from email_platform.adapters.clickhouse.exports import export_mart

    with open_warehouse(Settings.load()) as warehouse:
        rows = export_mart(warehouse, mart, out, form, campaign)
    say(f"wrote {out} ({rows:,} rows)")
