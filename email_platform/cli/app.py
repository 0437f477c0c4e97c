"""The command line `email-platform`: every noun's module is registered here, and nowhere else."""

from __future__ import annotations

import logging

import typer

from email_platform.cli import (
    adopt,
    alert,
    api,
    campaign,
    campaign_draft,
    campaign_plan,
    campaign_watch,
    explain,
    health,
    lead,
    legacy,
    metrics,
    parts,
    people,
    report,
    reports,
    retention,
    segment,
    stack,
    suppression,
    warehouse,
)
from email_platform.cli.failures import EXIT_CODES_HELP, CommandLine

app = typer.Typer(
    cls=CommandLine,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Email campaigns from the queue to the reports: nobody mailed twice, no record lost.\n\n"
    "Settings come from EMAIL_PLATFORM_… variables; on a bare machine `up` starts every part by itself. "
    "Begin with `demo`, or with `migrate` and `doctor` where the parts are yours.",
    epilog=EXIT_CODES_HELP,
)

for module in (stack, health, parts, api, reports, explain):  # commands without a noun of their own
    app.add_typer(module.app)
app.add_typer(api.key_app, name="api-key")
app.add_typer(people.user_app, name="user")
app.add_typer(people.sender_app, name="sender")
app.add_typer(lead.app, name="lead")
for module in (campaign_draft, campaign_plan, campaign_watch):
    campaign.app.add_typer(module.app)
app.add_typer(campaign.app, name="campaign")
app.add_typer(alert.app, name="alert")
app.add_typer(segment.app, name="segment")
app.add_typer(suppression.app, name="suppression")
app.add_typer(report.app, name="report")
app.add_typer(warehouse.app, name="warehouse")
app.add_typer(legacy.app, name="legacy")
app.add_typer(metrics.app, name="metrics")
app.add_typer(retention.app, name="retention")
app.add_typer(adopt.app, name="adopt")

# Without a handler Python prints the driver's own line about a failure, beside the sentence that `failures` prints.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())


if __name__ == "__main__":
    app()
