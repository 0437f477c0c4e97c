"""`email-platform alert …`: what needs an operator now, and whether alerts arrive."""

from __future__ import annotations

from typing import Annotated

import typer

from email_platform.cli.failures import ExitCode
from email_platform.cli.output import AsJson, Column, print_json, show_rows
from email_platform.settings import Settings

app = typer.Typer(no_args_is_help=True, help="What needs an operator: list, and test whether alerts arrive.")

_COLUMNS = (
    Column("alert_id", "id", kind="id"),
    Column("raised_at", "since"),
    Column("resolved_at", "over", show=lambda row: "no" if row["resolved_at"] is None else "yes"),
    Column("kind", "kind"),
    Column("happened", "what happened", below=True),
    Column("meaning", "for recipients", below=True),
    Column("command", "do", below=True),
    Column("not_taken", "not sent yet", below=True, show=lambda row: _not_taken(row["not_taken"], row["problem"])),
)
_TEST_COLUMNS = (
    Column("target", "target"),
    Column("taken", "", show=lambda row: "taken" if row["taken"] else "NOT TAKEN"),
    Column("problem", "why"),
)


@app.command("list")
def list_alerts(
    include_over: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """What needs an operator: what happened, what it means for recipients, and the command that mends it."""
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.alert_book import PostgresAlertBook

    with open_oltp(Settings.load()) as engine:
        found = PostgresAlertBook(engine).listed(limit, with_resolved=include_over)
    rows = [
        {
            "alert_id": alert.alert_id,
            "raised_at": alert.raised_at,
            "resolved_at": alert.resolved_at,
            "kind": alert.condition.kind,
            "subject": alert.condition.subject,
            "happened": alert.condition.happened,
            "meaning": alert.condition.meaning,
            "command": alert.condition.command,
            "not_taken": waiting,
            "problem": problem,
        }
        for alert, waiting, problem in found
    ]
    show_rows(_COLUMNS, rows, as_json=as_json, nothing="nothing needs an operator")


@app.command("test")
def try_alerts(as_json: AsJson = False) -> None:
    """Send a test alert and its end to every target, past the outbox; exit code 1 where one does not take it."""
    from email_platform.adapters.assembly import open_alerts
    from email_platform.alerting.watch import try_targets

    with open_alerts(Settings.load()) as parts:
        rows = [
            {"target": target, "taken": problem is None, "problem": problem}
            for target, problem in try_targets(parts).items()
        ]
    if as_json:
        print_json(rows)
    else:
        nothing = "no target is set: see EMAIL_PLATFORM_ALERT_WEBHOOK_URL and EMAIL_PLATFORM_ALERT_URLS"
        show_rows(_TEST_COLUMNS, rows, as_json=False, nothing=nothing)
    if not rows or not all(row["taken"] for row in rows):
        raise typer.Exit(ExitCode.REFUSED)


def _not_taken(count: int, problem: str | None) -> str:
    return "-" if not count else f"{count} messages{f': {problem}' if problem else ''}"
