"""`email-platform adopt …`: an old system's leads and campaigns beside this platform, before it sends anything.

Invariant: nothing here writes to a database, neither to the platform's nor to somebody else's.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from email_platform.cli.failures import ExitCode
from email_platform.cli.output import AsJson, Column, print_json, say, show_rows, visible
from email_platform.errors import CommandRefusedError
from email_platform.settings import Settings

if TYPE_CHECKING:
    from email_platform.adapters.mysql.lead_source import ColumnVerdict
    from email_platform.adapters.postgres.foreign_relation import FoundColumn

app = typer.Typer(
    no_args_is_help=True, help="Leads and campaigns of an old system: check the leads, compare audiences."
)

_COLUMNS = (
    Column("name", "column"),
    Column("type", "type", show=lambda row: row["type"] or "-"),
    Column("used_for", "is"),
    Column("problem", "", show=lambda row: row["problem"] or ("fits" if row["type"] else "not there, not needed")),
)
_COUNTS = (
    Column("group", "group", show=lambda row: row["group"].replace("_", " ")),
    Column("why", "why"),
    Column("addresses", "addresses", kind="count"),
)


@app.callback()
def main() -> None:
    """Leads and campaigns of an old system: check the leads, compare audiences."""


@app.command()
def check(
    condition: Annotated[
        Path | None,
        typer.Option(help="An audience as JSON: count it, and name the index that it needs.", dir_okay=False),
    ] = None,
    old_rows: Annotated[
        bool, typer.Option("--old-rows", help="Check the old table of emails instead (EMAIL_PLATFORM_LEGACY_URL).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check where your leads are: the columns, the ids, the indexes that are missing, and how many an audience has.

    That is EMAIL_PLATFORM_LEAD_RELATION, or else the MySQL or MariaDB of EMAIL_PLATFORM_LEAD_SOURCE_URL; and the
    columns of EMAIL_PLATFORM_USER_RELATION and EMAIL_PLATFORM_SENDER_RELATION. Only reads. With --old-rows:
    whether the old table of emails can be imported. Exit code 1 where one cannot be used.
    """
    from email_platform.adapters.postgres.lead_relation import LeadRelation

    settings = Settings.load()
    if old_rows:
        _check_old_table(settings, as_json)
        return
    raw_condition = None if condition is None else _json_of(condition)
    people = _check_people(settings, as_json)
    usable = all(one["usable"] for one in people.values())
    document: dict[str, Any] = {}
    if not LeadRelation.from_settings(settings).is_ours:
        document = _check_relation(settings, raw_condition, as_json)
    elif settings.lead_source_url is not None:
        document = _check_source(settings, raw_condition, as_json)
    elif not people or raw_condition is not None:
        raise CommandRefusedError(
            "leads are in our own table: set EMAIL_PLATFORM_LEAD_RELATION to the table or view that has yours, or "
            "EMAIL_PLATFORM_LEAD_SOURCE_URL to the MySQL or MariaDB where they are"
        )
    if as_json:
        print_json({**document, **people})
    if not usable or not document.get("usable", True):
        raise typer.Exit(ExitCode.REFUSED)


@app.command()
def shadow(
    campaign: Annotated[int, typer.Option(help="The old system's campaign, sent by it and imported.")],
    condition: Annotated[Path, typer.Option(help="Its audience as JSON, as we would resolve it.", dir_okay=False)],
    sender: Annotated[int, typer.Option(help="Our sender, whose suppressions count.")],
    out: Annotated[
        Path | None, typer.Option(help="Write every address with its group and reason as CSV.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare whom the old system mailed with whom we would have mailed: who differs, and why.

    Sends nothing and writes to no database. Exit code 1 where anybody differs.
    """
    from email_platform.adapters.old_systems import compare_with_old_campaign

    report = compare_with_old_campaign(Settings.load(), campaign, _json_of(condition), sender)
    counts = [
        {"group": group, "why": why, "addresses": count}
        for (group, why), count in sorted(report.counts.items(), key=lambda one: (one[0][0], -one[1], one[0][1]))
    ]
    if out is not None:
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("address", "group", "why", "lead_id", "old_status"))
            writer.writerows((row.address, row.group, row.why, row.lead_id, row.old_status) for row in report.rows)
    if as_json:
        print_json({"campaign": report.campaign_id, "old_rows": report.old_rows, "counts": counts})
    else:
        say(f"campaign {report.campaign_id} of the old system: {report.old_rows:,} rows")
        show_rows(_COUNTS, counts, as_json=False, nothing="nobody on either side")
        say(
            f"{report.of('both'):,} addresses on both sides, {report.of('old_only'):,} only there, "
            f"{report.of('ours_only'):,} only here"
        )
        if out is not None:
            say(f"{len(report.rows):,} addresses in {out}")
    if report.of("old_only") or report.of("ours_only"):
        raise typer.Exit(ExitCode.REFUSED)


def _check_people(settings: Settings, as_json: bool) -> dict[str, dict[str, Any]]:
    """The columns of users and senders that are somebody else's."""
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.people_relations import look_up_theirs

    if not (settings.user_relation or settings.sender_relation):
        return {}
    with open_oltp(settings) as engine:
        theirs = look_up_theirs(engine, settings)
    documents: dict[str, dict[str, Any]] = {}
    for rows, found in theirs.items():
        columns = _as_rows(found.columns)
        documents[rows] = {"relation": found.name, "usable": not found.problems, "columns": columns}
        if not as_json:
            say(f"{rows}: {found.name}")
            show_rows(_COLUMNS, columns, as_json=False, nothing="no columns")
            if found.problems:
                say(f"it cannot be used as {rows} yet", style="red")
    return documents


def _check_old_table(settings: Settings, as_json: bool) -> None:
    from email_platform.adapters.old_systems import describe_old_table

    found = describe_old_table(settings)
    earliest = found.earliest_created_at
    first_month = settings.legacy_first_month
    is_covered = earliest is None or f"{earliest:%Y-%m}" >= first_month
    if as_json:
        print_json(
            {
                "table": found.table,
                "address": found.address,
                "is_replica": found.is_replica,
                "earliest_created_at": earliest and earliest.isoformat(),
                "first_month": first_month,
                "is_covered": is_covered,
            }
        )
    else:
        say(f"{found.table} at {found.address}{', a replica' if found.is_replica else ''}: can be imported")
        since = "it has no rows" if earliest is None else f"its rows begin in {earliest:%Y-%m}"
        say(f"{since}; the import begins in {first_month}")
    if not is_covered:
        raise CommandRefusedError("older rows would stay behind: set EMAIL_PLATFORM_LEGACY_FIRST_MONTH to their month")


def _check_source(settings: Settings, raw_condition: object | None, as_json: bool) -> dict[str, Any]:
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.mysql.lead_source import MysqlLeadSource
    from email_platform.adapters.postgres.audience import PostgresAudienceSource

    source = MysqlLeadSource.from_settings(settings)
    found = source.look_up()
    columns = _as_rows(found.columns)
    indexes = [
        {"question": question, "served": served, "proposal": None if served else source.index_proposal(question)}
        for question, served in found.indexes.items()
    ]
    is_view = found.table.engine is None
    usable = not found.problems and (is_view or all(found.indexes.values()))
    timeless, keyless = source.count_unreadable() if not found.problems else (None, None)
    estimated = None
    if raw_condition is not None:
        with open_oltp(settings) as engine:
            estimated = PostgresAudienceSource(engine, None).estimate_rows(raw_condition)
    document = {
        "source": source.name,
        "usable": usable,
        "columns": columns,
        "indexes": indexes,
        "estimated_source_rows": found.table.estimated_rows,
        "rows_without_time_of_change": timeless,
        "rows_without_usable_key": keyless,
        "estimated_rows": estimated,
    }
    if as_json:
        return document
    say(source.name)
    show_rows(_COLUMNS, columns, as_json=False, nothing="no columns")
    for one in indexes:
        if one["served"]:
            say(f"{one['question']}: served by an index")
        elif is_view:
            say(
                f"{one['question']}: it is a view; see that an index of the table behind it answers this",
                style="yellow",
            )
        else:
            say(f"{one['question']}: reads every row; this helps:", style="red")
            say(f"    {visible(str(one['proposal']))}")
    if found.problems:
        say("it cannot be used as the leads' source yet", style="red")
        return document
    if found.table.estimated_rows is not None:
        say(f"about {found.table.estimated_rows:,} rows")
    if timeless:
        say(f"{timeless:,} rows have no time of change: only the slices see what happens to them", style="yellow")
    if keyless:
        say(f"{keyless:,} rows have a key below 0 or above 2^63 - 1: they are not read", style="red")
    if estimated is not None:
        say(f"about {estimated:,} of the leads that are here already meet the condition")
    return document


def _check_relation(settings: Settings, raw_condition: object | None, as_json: bool) -> dict[str, Any]:
    from email_platform.adapters.assembly import open_oltp
    from email_platform.adapters.postgres.adoption import check_adoption
    from email_platform.adapters.postgres.lead_relation import LeadRelation

    with open_oltp(settings) as engine:
        found = check_adoption(engine, LeadRelation.from_settings(settings), raw_condition)
    columns = _as_rows(found.relation.columns)
    indexes = [{"question": one.question, "served": one.served, "proposal": one.proposal} for one in found.indexes]
    usable = not found.relation.problems and not any(found.bad_ids or ())
    audience = found.audience
    if not as_json:
        _show(found, columns)
    return {
        "relation": found.relation.name,
        "usable": usable,
        "columns": columns,
        "rows_without_id": found.bad_ids and found.bad_ids[0],
        "rows_with_an_id_of_another": found.bad_ids and found.bad_ids[1],
        "indexes": indexes,
        "estimated_rows": audience and audience.estimated_rows,
        "counted_rows": audience and audience.counted_rows,
    }


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


def _as_rows(columns: Iterable[FoundColumn | ColumnVerdict]) -> list[dict[str, Any]]:
    return [{"name": one.name, "type": one.type, "used_for": one.used_for, "problem": one.problem} for one in columns]


def _json_of(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CommandRefusedError(f"{file}: is no JSON that can be read ({type(error).__name__})") from None
