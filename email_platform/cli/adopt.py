"""`email-platform adopt …`: leads that stay where they are.

Invariant: nothing here writes anything, neither to the platform's tables nor to the relation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from email_platform.cli.failures import ExitCode
from email_platform.cli.output import AsJson, Column, print_json, say, show_rows, visible
from email_platform.errors import CommandRefusedError
from email_platform.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Leads that stay where they are: check a table or view of your own.")

_COLUMNS = (
    Column("name", "column"),
    Column("type", "type", show=lambda row: row["type"] or "-"),
    Column("used_for", "is"),
    Column("problem", "", show=lambda row: row["problem"] or ("fits" if row["type"] else "not there, not needed")),
)


@app.callback()
def main() -> None:
    """Leads that stay where they are: check a table or view of your own."""


@app.command()
def check(
    condition: Annotated[
        Path | None,
        typer.Option(help="An audience as JSON: count it, and name the index that it needs.", dir_okay=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check EMAIL_PLATFORM_LEAD_RELATION: its columns, its ids, the indexes it lacks, and how many an audience has.

    Only reads. Exit code 1 where it cannot be used.
    """
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.adoption import check_adoption
    from email_platform.adapters.postgres.lead_relation import LeadRelation

    settings = Settings.load()
    leads = LeadRelation.from_settings(settings)
    if leads.is_ours:
        raise CommandRefusedError(
            "leads are in our own table: set EMAIL_PLATFORM_LEAD_RELATION to the table or view that has yours"
        )
    with open_oltp(settings) as engine:
        found = check_adoption(engine, leads, None if condition is None else _json_of(condition))
    columns = [
        {"name": one.name, "type": one.type, "used_for": one.used_for, "problem": one.problem}
        for one in found.relation.columns
    ]
    indexes = [{"question": one.question, "served": one.served, "proposal": one.proposal} for one in found.indexes]
    usable = not found.relation.problems and not any(found.bad_ids or ())
    if as_json:
        audience = found.audience
        print_json(
            {
                "relation": found.relation.name,
                "usable": usable,
                "columns": columns,
                "rows_without_id": found.bad_ids and found.bad_ids[0],
                "rows_with_an_id_of_another": found.bad_ids and found.bad_ids[1],
                "indexes": indexes,
                "estimated_rows": audience and audience.estimated_rows,
                "counted_rows": audience and audience.counted_rows,
            }
        )
    else:
        _show(found, columns)
    if not usable:
        raise typer.Exit(ExitCode.REFUSED)


def _show(found: Any, columns: list[dict[str, Any]]) -> None:
    say(found.relation.name)
    show_rows(_COLUMNS, columns, as_json=False, nothing="no columns")
    if found.relation.problems:
        say("it cannot be used as leads yet", style="red")
        return
    if found.bad_ids is None:
        say("whether each id has one row was not counted: it takes too long")
    elif any(found.bad_ids):
        missing, repeated = found.bad_ids
        say(
            f"{missing:,} rows have no id, and {repeated:,} have the id of another: each lead needs its own",
            style="red",
        )
    for one in found.indexes:
        if one.served:
            say(f"{visible(one.question)}: served by an index")
        elif one.proposal is None:
            say(f"{visible(one.question)}: reads every row; an index would not help, or is not needed")
        else:
            say(f"{visible(one.question)}: reads every row; this helps:", style="yellow")
            say(f"    {visible(one.proposal)}")
    if found.audience is not None:
        counted = found.audience.counted_rows
        exact = "counting takes too long" if counted is None else f"counted: {counted:,}"
        say(f"about {found.audience.estimated_rows:,} leads meet the condition ({exact})")


def _json_of(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CommandRefusedError(f"{file}: is no JSON that can be read ({type(error).__name__})") from None
