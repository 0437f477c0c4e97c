"""Whether a relation of somebody else's can serve as leads, and what it lacks; only reads.

Invariant: an index is called missing only where PostgreSQL, asked not to read the table from end to end, still has
to; and one that is proposed is written with the very expression that a campaign's statement compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.errors import QueryCanceled
from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Engine,
    FromClause,
    Select,
    Text,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError

from email_platform.adapters.postgres.audience import PostgresAudienceSource
from email_platform.adapters.postgres.condition_sql import attribute_json, compared_value, where_clause
from email_platform.adapters.postgres.foreign_relation import FoundRelation
from email_platform.adapters.postgres.lead_relation import LeadRelation
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.audience.condition_answers import described
from email_platform.audience.conditions import AllOf, Comparison, Condition, parse_condition
from email_platform.errors import PartUnavailableError

COUNT_SECONDS = 20.0
"""How long a count over the relation may take before it is given up."""
_COUNT_AT_MOST = 1_000_000_000
_SMALL_SHARE = 0.05  # of the rows: PostgreSQL reads a table from end to end where many more are wanted
_SCHEMA_OF_KEY = text(
    """
    select quote_ident(namespace.nspname)
    from pg_proc as function
    inner join pg_namespace as namespace on namespace.oid = function.pronamespace
    where function.oid = cast('email_address_key(text)' as regprocedure)
    """
)
_INDEXED = ("eq", "in", "lt", "lte", "gt", "gte", "between", "starts_with")


@dataclass(frozen=True, slots=True)
class IndexAdvice:
    """One question that the platform asks of the relation.

    Attributes:
        question: in words.
        served: whether an index answers it.
        proposal: a statement that makes such an index, for the relation's owner; None where it is served, where no
            ordinary index helps, or where the planner would not use it.
    """

    question: str
    served: bool
    proposal: str | None


@dataclass(frozen=True, slots=True)
class AudienceEstimate:
    """How many leads meet a condition.

    Attributes:
        estimated_rows: the planner's guess.
        counted_rows: None where counting took longer than `COUNT_SECONDS`.
    """

    estimated_rows: int
    counted_rows: int | None


@dataclass(frozen=True, slots=True)
class AdoptionCheck:
    """What was found.

    Attributes:
        relation: its columns and their problems.
        bad_ids: rows without an id, and rows beyond the first of an id; None where it cannot be used or where counting
            took too long.
        indexes: of the questions that every campaign asks, then of the condition's comparisons.
        audience: None without a condition.
    """

    relation: FoundRelation
    bad_ids: tuple[int, int] | None
    indexes: tuple[IndexAdvice, ...]
    audience: AudienceEstimate | None


def check_adoption(engine: Engine, leads: LeadRelation, raw_condition: object | None) -> AdoptionCheck:
    """Look at the relation; with a condition (parsed JSON), at what it would cost and whom it would reach.

    Raises:
        ConfigurationError: our user sees no such relation.
        InvalidConditionError: the condition breaks the grammar.
        PartUnavailableError: PostgreSQL is away.
    """
    source = PostgresAudienceSource(engine, None, leads)  # estimates only: it reads no address
    condition = None if raw_condition is None else parse_condition(source.resolved(raw_condition))
    found = leads.look_up(engine)
    if found.problems:
        return AdoptionCheck(found, None, (), None)
    lead = leads.source(engine)
    audience = None
    if condition is not None:
        audience = AudienceEstimate(
            source.estimate_rows(raw_condition), source.count_rows(raw_condition, _COUNT_AT_MOST, COUNT_SECONDS)
        )
    with oltp_transaction(engine) as connection:
        indexes = (
            *_standing_questions(connection, found, lead),
            *(() if condition is None else _of_condition(connection, found, lead, condition)),
        )
    return AdoptionCheck(found, _bad_ids(engine, lead), indexes, audience)


def _bad_ids(engine: Engine, lead: FromClause) -> tuple[int, int] | None:
    ids = select(lead.c.id).subquery("ids")
    counts: Select[*tuple[Any, ...]] = select(
        literal_column("count(*) filter (where ids.id is null)").label("missing"),
        literal_column("count(ids.id) - count(distinct ids.id)").label("repeated"),
    ).select_from(ids)
    try:
        with oltp_transaction(engine) as connection:
            connection.execute(text(f"set local statement_timeout = {round(COUNT_SECONDS * 1000)}"))
            row = connection.execute(counts).one()
    except PartUnavailableError as error:
        if isinstance(error.__cause__, DBAPIError) and isinstance(error.__cause__.orig, QueryCanceled):
            return None
        raise
    return row.missing, row.repeated


def _standing_questions(connection: Connection, found: FoundRelation, lead: FromClause) -> Iterator[IndexAdvice]:
    yield _advice(
        connection, found, "a lead by its id", select(lead.c.id).where(lead.c.id == 1), f"({found.expressions['id']})"
    )
    if any(one.used_for == "unsubscribed_at" and one.type is not None for one in found.columns):
        schema: str = connection.execute(_SCHEMA_OF_KEY).scalar_one()
        yield _advice(
            connection,
            found,
            "opted-out leads by address (before each call)",
            select(lead.c.id).where(
                lead.c.unsubscribed_at.is_not(None),
                func.email_address_key(lead.c.email, type_=Text()) == "nobody@example.com",
            ),
            f"({schema}.email_address_key({found.expressions['email']}))",
            f" where {found.expressions['unsubscribed_at']} is not null",
        )


def _of_condition(
    connection: Connection, found: FoundRelation, lead: FromClause, condition: Condition
) -> Iterator[IndexAdvice]:
    """The comparisons that must all hold: an index on one of them is enough, best on the one that fewest leads meet."""
    everybody = max(1, _rows(connection, select(lead.c.id)))
    # What the planner compares, with somebody else's columns as they stand in his table.
    columns = {name: literal_column(sql, lead.c[name].type) for name, sql in found.expressions.items()}
    asked: list[tuple[int, IndexAdvice]] = []
    for one in _all_of(condition):
        statement = select(lead.c.id).where(where_clause(one, lead.c))
        rows = _rows(connection, statement)
        expression = _index_expression(one, columns, connection.dialect)
        useful = expression is not None and rows <= everybody * _SMALL_SHARE
        advice = _advice(connection, found, described(one), statement, expression if useful else None)
        asked.append((rows, advice))
    served = any(advice.served for _, advice in asked)
    proposed = next((advice for _, advice in sorted(asked, key=lambda one: one[0]) if advice.proposal), None)
    for _, advice in asked:
        keep = advice is proposed and not served
        yield advice if keep else IndexAdvice(advice.question, advice.served, None)


def _all_of(condition: Condition) -> Iterator[Comparison]:
    match condition:
        case AllOf(parts):
            for part in parts:
                yield from _all_of(part)
        case Comparison():
            yield condition
        case _:
            return


def _index_expression(comparison: Comparison, columns: Mapping[str, Any], dialect: Dialect) -> str | None:
    """What an index is about, or None where no ordinary one helps (a text inside, a negation, an attribute's time)."""
    if comparison.value_type == "list":
        element = attribute_json(comparison, columns)
        return f"using gin (({_sql(element, dialect)}))"
    if comparison.op not in _INDEXED or (comparison.is_attribute and comparison.value_type == "timestamp"):
        return None
    kind = " text_pattern_ops" if comparison.op == "starts_with" else ""
    return f"(({_sql(compared_value(comparison, columns), dialect)}){kind})"


def _sql(expression: ColumnElement[Any], dialect: Dialect) -> str:
    return str(expression.compile(dialect=dialect, compile_kwargs={"literal_binds": True})).replace("%%", "%")


def _advice(
    connection: Connection,
    found: FoundRelation,
    question: str,
    statement: Select[Any],
    expression: str | None,
    predicate: str = "",
) -> IndexAdvice:
    connection.execute(text("set local enable_seqscan = off"))
    scans = list(_scans(_plan(connection, statement)))
    connection.execute(text("set local enable_seqscan = on"))
    unserved = [scan for scan in scans if "Filter" in scan and "Index Cond" not in scan]
    proposal = None
    if unserved and expression is not None:
        proposal = f"create index concurrently on {found.name} {expression}{predicate}"
        if not found.is_table:
            tables = ", ".join(sorted({str(scan.get("Relation Name", "?")) for scan in unserved}))
            proposal = f"on the table behind the view ({tables}): " + proposal.replace(found.name, "TABLE")
    return IndexAdvice(question, not unserved, proposal)


def _plan(connection: Connection, statement: Select[Any]) -> dict[str, Any]:
    compiled = statement.compile(dialect=connection.dialect)
    plan: list[Any] = connection.exec_driver_sql(f"explain (format json) {compiled}", compiled.params).scalar_one()
    root: dict[str, Any] = plan[0]["Plan"]
    return root


def _rows(connection: Connection, statement: Select[Any]) -> int:
    return int(_plan(connection, statement)["Plan Rows"])


def _scans(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The nodes that read a table or an index."""
    inner: Sequence[Mapping[str, Any]] = node.get("Plans", ())
    for one in inner:
        yield from _scans(one)
    if not inner:
        yield node
