"""Users and senders of somebody else's: a view takes the place of our table, so that everything reads theirs.

Invariant: of ``app_user`` and ``sender`` each is either our table, with its foreign keys, or a view over the relation
that a setting names, without them; which one is decided by `migrate` alone, in one transaction with the migrations.

Our table is kept beside its view as ``own_app_user`` or ``own_sender``, and comes back when the setting is taken away.

A foreign key cannot refer to a view. What it forbade is looked for where it matters: a campaign whose sender is not
there fails with that reason, and no other does. A campaign whose audience is frozen goes on with the sender that was
frozen with it.

| relation | column | types | without it |
| --- | --- | --- | --- |
| users | ``id`` | smallint, integer, bigint | refused |
| | ``email`` | text | refused |
| | ``created_at`` | timestamptz, timestamp, date | refused |
| | ``name`` | text | the address |
| senders | ``id``, ``owner_id`` | smallint, integer, bigint | refused |
| | ``from_address`` | text | refused |
| | ``provider`` | text | refused |
| | ``created_at`` | timestamptz, timestamp, date | refused |
| | ``from_name`` | text | the address |
| | ``reply_to`` | text | null |
| | ``provider_account`` | text | ``default`` |

A row without an id (or a sender without an owner) is not there. Of rows with one id any one counts. A text that is null
is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Engine, text

from email_platform.adapters.postgres.foreign_relation import (
    TEXTS,
    TIMES,
    FoundRelation,
    bindless,
    expression,
    find_relation,
    judged,
    quoted,
)
from email_platform.adapters.postgres.tables import metadata
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.errors import CommandRefusedError, ConfigurationError
from email_platform.settings import Settings, variable_of

_IDS = ("int2", "int4", "int8")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What stands in for one of our tables.

    Attributes:
        table: ours.
        rows: what its rows are.
        setting: what names the relation.
        types: of each column.
        defaults: in SQL, over the columns that are there, for those that may be missing.
        keys: columns without which a row is not there.
    """

    table: str
    rows: str
    setting: Literal["user_relation", "sender_relation"]
    types: Mapping[str, Sequence[str]]
    defaults: Mapping[str, str]
    keys: tuple[str, ...]

    @property
    def variable(self) -> str:
        """The environment variable of the setting."""
        return variable_of(self.setting)

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that must be there."""
        return tuple(name for name in self.types if name not in self.defaults)


USERS = Wanted(
    "app_user",
    "users",
    "user_relation",
    {"id": _IDS, "email": TEXTS, "name": TEXTS, "created_at": TIMES},
    {"name": "email"},
    ("id",),
)
SENDERS = Wanted(
    "sender",
    "senders",
    "sender_relation",
    {
        "id": _IDS,
        "owner_id": _IDS,
        "from_address": TEXTS,
        "from_name": TEXTS,
        "reply_to": TEXTS,
        "provider": TEXTS,
        "provider_account": TEXTS,
        "created_at": TIMES,
    },
    {"from_name": "from_address", "reply_to": "cast(null as text)", "provider_account": "'default'"},
    ("id", "owner_id"),
)
_ALL = (USERS, SENDERS)
_NULLABLE = "reply_to"
_VIEW = text(
    "select coalesce(obj_description(oid, 'pg_class'), 'a view without a comment') from pg_class "
    "where oid = to_regclass(:name) and relkind = 'v'"
)
_UNIQUE_ID = text(
    """
    select exists (
        select from pg_index as index
        inner join pg_attribute as attribute on attribute.attrelid = index.indrelid
            and attribute.attnum = index.indkey[0]
        where index.indrelid = to_regclass(:name) and index.indisunique and index.indisvalid and index.indpred is null
            and index.indnkeyatts = 1 and attribute.attname = 'id'
    )
    """
)
_REFERENCES = text(
    "select cast(cast(conrelid as regclass) as text), conname from pg_constraint "
    "where contype = 'f' and confrelid = to_regclass(:name)"
)
_RIGHTS = text(
    """
    select cast(grantee as regrole)::text as role, privilege_type as right, null as column
    from pg_class, aclexplode(relacl) as granted
    where pg_class.oid = to_regclass(:name) and privilege_type in ('SELECT', 'INSERT', 'UPDATE')
        and grantee not in (0, relowner)
    union all
    select cast(grantee as regrole)::text, privilege_type, attname
    from pg_attribute
    inner join pg_class on pg_class.oid = attrelid
    cross join lateral aclexplode(attacl) as granted
    where attrelid = to_regclass(:name) and privilege_type in ('SELECT', 'INSERT', 'UPDATE')
        and grantee not in (0, relowner)
    """
)
# Without it PostgreSQL would write through a plain view, with its owner's rights on what is behind it.
_REFUSE_WRITE = """
create or replace function refuse_write_to_theirs() returns trigger language plpgsql as $$
begin
    raise exception using
        errcode = 'check_violation',
        message = format('%s are in %s, which is only read', tg_argv[0], tg_argv[1]),
        hint = 'Add and change them there.';
end
$$
"""


def relation_name(settings: Settings, wanted: Wanted) -> str:
    """The relation of the settings; empty: our own table."""
    return str(getattr(settings, wanted.setting))


def look_up_people(connection: Connection, wanted: Wanted, name: str) -> FoundRelation:
    """The relation as it is now, also where it cannot be used.

    Raises:
        ConfigurationError: our user sees no such relation.
    """
    row, columns = find_relation(connection, wanted.variable, name)
    found = tuple(judged(wanted.types, wanted.required, columns))
    there = {one.name for one in found if one.type is not None and one.problem is None}
    expressions: dict[str, str] = {}
    for column in (name for name in wanted.types if name in there):
        types = wanted.types[column]
        read = expression(types, columns[column])
        if types is _IDS:
            read = f"cast({read} as bigint)"
        if types is TIMES:
            read = f"coalesce({read}, timestamptz '-infinity')"
        if types is TEXTS and column != _NULLABLE:
            read = f"coalesce({read}, '')"
        expressions[column] = read
    is_table = row.relkind in ("r", "p")
    return FoundRelation(f"{quoted(row.nspname)}.{quoted(row.relname)}", is_table, found, expressions)


def require_own(connection: Connection, wanted: Wanted) -> None:
    """Before a row is added.

    Raises:
        CommandRefusedError: the rows belong to somebody else.
    """
    if named := _named(connection, wanted):
        raise CommandRefusedError(
            f"{wanted.rows} are in {named} ({wanted.variable}), which is only read: add them there"
        )


def check_people(engine: Engine, settings: Settings) -> Sequence[str]:
    """What the database has in the place of our tables, a sentence each; nothing where both are ours.

    Raises:
        ConfigurationError: it is not what the settings say, or cannot be read.
        PartUnavailableError: PostgreSQL is away.
    """
    shown = []
    with oltp_transaction(engine) as connection:
        for wanted in _ALL:
            name = relation_name(settings, wanted)
            if name != _named(connection, wanted):
                raise ConfigurationError(
                    f"{wanted.variable} is {name or 'not set'}, and the database does not read {wanted.rows} from "
                    f"{name or 'our own table'} yet: run `email-platform migrate`"
                )
            if name:
                found = look_up_people(connection, wanted, name)
                _require_usable(wanted, name, found)
                shown.append(f"{wanted.rows} in {found.name}, which is only read")
    return shown


def look_up_theirs(engine: Engine, settings: Settings) -> Mapping[str, FoundRelation]:
    """Users and senders of the settings as they are now, by what they are, also where they cannot be used.

    Raises:
        ConfigurationError: our user sees no such relation.
        PartUnavailableError: PostgreSQL is away.
    """
    with oltp_transaction(engine) as connection:
        return {
            wanted.rows: look_up_people(connection, wanted, name)
            for wanted in _ALL
            if (name := relation_name(settings, wanted))
        }


def is_in_place(connection: Connection, settings: Settings) -> bool:
    """Whether tables and views are as the settings say, so that nothing is to be changed.

    Raises:
        ConfigurationError: a relation is not there or cannot be used.
    """
    for wanted in _ALL:
        name = relation_name(settings, wanted)
        comment = _comment(name, _statement(connection, wanted, name)) if name else None
        if comment != _view(connection, wanted.table):
            return False
    return True


def put_own_back(connection: Connection) -> None:
    """Have our tables in their places, as the migrations know them; what refers to a missing row is left as it is."""
    gone = [wanted.table for wanted in _ALL if _view(connection, wanted.table) is not None]
    for table in gone:
        connection.exec_driver_sql(f"drop view {table}")
        connection.exec_driver_sql(f"alter table own_{table} rename to {table}")
    connection.exec_driver_sql("drop function if exists refuse_write_to_theirs()")
    for statement in _references_to(connection, gone):
        connection.exec_driver_sql(statement)


def put_theirs(connection: Connection, settings: Settings) -> None:
    """Have views take the place of those of our tables for which the settings name a relation.

    Raises:
        ConfigurationError: it is not there or cannot be used; roll back then.
    """
    for wanted in _ALL:
        name = relation_name(settings, wanted)
        if not name:
            continue
        statement = _statement(connection, wanted, name)
        rights = connection.execute(_RIGHTS, {"name": wanted.table}).all()
        for table, constraint in connection.execute(_REFERENCES, {"name": wanted.table}).all():
            connection.exec_driver_sql(f"alter table {table} drop constraint {quoted(str(constraint))}")
        connection.exec_driver_sql(f"alter table {wanted.table} rename to own_{wanted.table}")
        connection.execute(text(f"create view {wanted.table} as {bindless(statement)}"))
        literal = _comment(name, statement).replace("'", "''")
        connection.execute(text(f"comment on view {wanted.table} is '{bindless(literal)}'"))
        connection.execute(text(_REFUSE_WRITE))
        named = bindless(name.replace("'", "''"))
        connection.execute(
            text(
                f"create trigger refuse_write instead of insert or update or delete on {wanted.table} "
                f"for each row execute function refuse_write_to_theirs('{wanted.rows}', '{named}')"
            )
        )
        for role, right, column in rights:
            of_column = "" if column is None else f" ({quoted(str(column))})"
            connection.exec_driver_sql(f"grant {right}{of_column} on {wanted.table} to {role}")


def _view(connection: Connection, table: str) -> str | None:
    """The comment of the view that is in the place of our table; None where our table is there."""
    comment: str | None = connection.execute(_VIEW, {"name": table}).scalar()
    return comment


def _comment(name: str, statement: str) -> str:
    """What a view over this relation has as its comment, by which it is known again."""
    return f"{name}\n{statement}"


def _named(connection: Connection, wanted: Wanted) -> str:
    """The relation that the view in the place of our table reads; empty where our table is there."""
    return (_view(connection, wanted.table) or "").partition("\n")[0]


def _statement(connection: Connection, wanted: Wanted, name: str) -> str:
    """The statement of the view over this relation.

    Raises:
        ConfigurationError: it is not there or cannot be used.
    """
    found = look_up_people(connection, wanted, name)
    _require_usable(wanted, name, found)
    return _select(connection, wanted, found)


def _select(connection: Connection, wanted: Wanted, found: FoundRelation) -> str:
    inner = ", ".join(f"{sql} as {quoted(name)}" for name, sql in found.expressions.items())
    outer = ", ".join(
        quoted(name) if name in found.expressions else f"{wanted.defaults[name]} as {quoted(name)}"
        for name in wanted.types
    )
    keys = " and ".join(f"{quoted(name)} is not null" for name in wanted.keys)
    is_unique = bool(connection.execute(_UNIQUE_ID, {"name": found.name}).scalar())
    once = "" if is_unique else "distinct on (id) "
    return f"select {once}{outer} from (select {inner} from {found.name} where {keys}) as theirs"  # noqa: S608


def _require_usable(wanted: Wanted, name: str, found: FoundRelation) -> None:
    if found.problems:
        raise ConfigurationError(
            f"{wanted.variable}={name} cannot be read as {wanted.rows}: {'; '.join(found.problems)}"
        )


def _references_to(connection: Connection, tables: Sequence[str]) -> Iterator[str]:
    """What makes the foreign keys to these tables again, not asked of the rows that are there."""
    for table in metadata.sorted_tables:
        for one in table.foreign_key_constraints:
            if one.referred_table.name in tables:
                name = connection.dialect.identifier_preparer.format_constraint(one)
                (column,), (element,) = one.columns, one.elements
                yield (
                    f"alter table {table.name} add constraint {name} foreign key ({column.name}) "
                    f"references {one.referred_table.name} ({element.column.name}) not valid"
                )
