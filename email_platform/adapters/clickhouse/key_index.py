"""Where single emails are, by key: the tables `email_key` and `email_key_filled`, filled off the load path.

Invariant: every email of the raw tables is among the candidates of its keys at any moment. Either its load is before
`email_key_filled.filled_to` and its keys are in `email_key`, or it is read from the raw table by its `loaded_at`, with
the filters of migration 0027. A candidate without the key is possible (another key with the same hash, a row that a
newer one replaced): the reader compares the raw row.

A reader asks for `filled_to` before it reads `email_key`. In one statement nobody says which table is opened first, and
what is filled in between would be in neither half: there, a fill counts some time after it was recorded, longer than
a statement takes to open its tables (the macro `emails_by_key`).

`filled_to` is never after a load that runs: an INSERT takes its ``loaded_at`` when it is analysed, after it is listed
in ``system.processes`` (ClickHouse's documentation, system-tables/processes), so the oldest INSERT there bounds it. All
loads are made by one user: others' may not be listed. Where that table may not be read, and on a cluster, where other
servers insert and replicas lag, it stays behind by more than a load may take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from email_platform.adapters.clickhouse.client import LOAD_TIMEOUT_SECONDS
from email_platform.errors import ConfigurationError

KeyKind = Literal["lead", "address", "provider_message_id", "message_id"]

TABLES = ("email_key", "email_key_filled", "email_key_fill")  # the last is that of the version before

# The key as a text, by raw table and kind; an empty one is none.
KEYS: Mapping[str, Mapping[KeyKind, str]] = {
    "delivery": {
        "lead": "toString(lead_id)",
        "address": "lower(email)",
        "provider_message_id": "provider_message_id",
        "message_id": "toString(message_id)",
    },
    "legacy_email": {
        "lead": "toString(lead_id)",
        "address": "lower(email)",
        "provider_message_id": "ifNull(provider_message_id, '')",
    },
    "exclusion": {"lead": "toString(lead_id)", "address": "lower(ifNull(email, ''))"},
}

# Written in the same form as the filters of migration 0027: any other form of a condition reads every row.
CONDITIONS: Mapping[KeyKind, str] = {
    "lead": "lead_id = {wanted:Int64}",
    "address": "lower(email) = lower({wanted:String})",
    "provider_message_id": "provider_message_id = {wanted:String}",
    "message_id": "message_id = {wanted:UUID}",
}
_WANTED: Mapping[KeyKind, str] = {
    "lead": "toString({wanted:Int64})",
    "address": "lower({wanted:String})",
    "provider_message_id": "{wanted:String}",
    "message_id": "toString({wanted:UUID})",
}

_FEW = 2_000
"""So many keys of rows stand in a statement, which may have 256 KiB; more are found by a subquery."""
_SLICE_ROWS = 5_000_000
_CLOCK_SECONDS = 5  # a clock that is set back by less makes no load invisible
_LOAD_SECONDS = int(LOAD_TIMEOUT_SECONDS) + 60  # a load is given up before, on whichever server
_FILL_SETTINGS: Mapping[str, Any] = {"async_insert": 0, "max_threads": 2, "max_insert_threads": 1}
_OLDEST_INSERT = """
    select least(now64(3, 'UTC'), ifNull(minOrNull(now64(3, 'UTC') - toIntervalMillisecond(toInt64(elapsed * 1000))),
        now64(3, 'UTC'))) - toIntervalSecond({seconds:UInt32})
    from system.processes
    where query_kind in ('Insert', 'AsyncInsertFlush')
"""


class _Warehouse(Protocol):
    client: Any

    @property
    def on_cluster(self) -> bool: ...

    def query(self, statement: str, parameters: Mapping[str, Any]) -> list[Any]: ...

    def command(self, statement: str, settings: Mapping[str, Any], parameters: Mapping[str, Any] = ...) -> None: ...


def key_hash(text: str) -> str:
    """SQL of the hash of a key that is given as SQL."""
    return f"toUInt32(cityHash64({text}))"


def filled_to(warehouse: _Warehouse) -> datetime:
    """Up to when every load has its keys in `email_key`; 1970 where nothing was filled. An older answer stays right."""
    ((moment,),) = warehouse.query("select max(filled_to) from email_key_filled", {})
    return moment  # type: ignore[no-any-return]


def candidates(kind: KeyKind, table: str, since: datetime) -> str:
    """SQL of the campaign and lead of each row of a raw table that may have the key bound as ``wanted``.

    Args:
        kind: of the key.
        table: one that has keys of this kind; see `KEYS`.
        since: a moment that was `filled_to`, now or at any time before.
    """
    return (
        f"select campaign_id, lead_id from email_key where {_in_index(kind)} and source = '{table}' "  # noqa: S608 - constants
        f"union all select campaign_id, lead_id from {table} where {_not_in_index(kind, since)}"
    )


def few_candidates(
    warehouse: _Warehouse, kind: KeyKind, wanted: int | str, since: datetime
) -> Mapping[str, set[tuple[int, int]]] | None:
    """The same of every raw table at once, by table; tables without any are left out. None where there are many."""
    found = [f"select toString(source) as its_table, campaign_id, lead_id from email_key where {_in_index(kind)}"]  # noqa: S608 - constants
    found += [
        f"select '{table}' as its_table, campaign_id, lead_id from {table} where {_not_in_index(kind, since)}"  # noqa: S608 - constants
        for table, kinds in KEYS.items()
        if kind in kinds
    ]
    statement = f"select * from ({' union all '.join(found)}) limit {_FEW + 1} settings max_threads = 1"  # noqa: S608
    rows = warehouse.query(statement, {"wanted": wanted})
    if len(rows) > _FEW:
        return None
    by_table: dict[str, set[tuple[int, int]]] = {}
    for table, campaign_id, lead_id in rows:
        by_table.setdefault(str(table), set()).add((campaign_id, lead_id))
    return by_table


def _in_index(kind: KeyKind) -> str:
    return f"kind = '{kind}' and key_hash = {key_hash(_WANTED[kind])}"


def _not_in_index(kind: KeyKind, since: datetime) -> str:
    return f"loaded_at >= toDateTime64('{_text(since)}', 3, 'UTC') and {CONDITIONS[kind]}"


def fill(warehouse: _Warehouse) -> int:
    """Put the keys of whatever was loaded since the last fill into `email_key`; returns how many rows had some.

    Safe to repeat, to kill, and to run twice at once: the same key is one row after a merge, and `filled_to` moves only
    after its keys are there.

    Raises:
        ConfigurationError, PartUnavailableError: ClickHouse refuses or does not answer.
    """
    safe_to = _safe_moment(warehouse)
    since = filled_to(warehouse)
    rows = 0
    for table in KEYS:
        for first, last, count in _slices(warehouse, table, since):
            warehouse.command(
                f"insert into email_key select pair.1, {key_hash('pair.2')}, '{table}', campaign_id, lead_id "  # noqa: S608 - constants
                f"from {table} array join {_keys_of(table)} as pair "
                "where loaded_at >= {since:DateTime64(3, 'UTC')} and campaign_id between {first:Int64} and {last:Int64}"
                " and pair.2 != ''",
                _FILL_SETTINGS,
                {"since": _text(since), "first": first, "last": last},
            )
            rows += count
    if safe_to > since:
        warehouse.command(
            "insert into email_key_filled select now64(3, 'UTC'), {to:DateTime64(3, 'UTC')}",
            _FILL_SETTINGS,
            {"to": _text(safe_to)},
        )
    return rows


def _safe_moment(warehouse: _Warehouse) -> datetime:
    """A moment that is before the start of every load whose rows cannot be seen yet."""
    if not warehouse.on_cluster:
        try:
            ((moment,),) = warehouse.query(_OLDEST_INSERT, {"seconds": _CLOCK_SECONDS})
        except ConfigurationError:  # this user may not read system.processes
            pass
        else:
            return moment  # type: ignore[no-any-return]
    ((moment,),) = warehouse.query(
        "select now64(3, 'UTC') - toIntervalSecond({seconds:UInt32})", {"seconds": _LOAD_SECONDS}
    )
    return moment  # type: ignore[no-any-return]


def _keys_of(table: str) -> str:
    pairs = ", ".join(f"('{kind}', {text})" for kind, text in KEYS[table].items())
    return f"[{pairs}]"


def _slices(warehouse: _Warehouse, table: str, since: datetime) -> Iterator[tuple[int, int, int]]:
    """Ranges of campaigns with about `_SLICE_ROWS` new rows each: the first, the last, and the rows."""
    found: Sequence[tuple[int, int]] = warehouse.query(
        f"select campaign_id, count() from {table} where loaded_at >= {{since:DateTime64(3, 'UTC')}} "  # noqa: S608 - constants
        "group by campaign_id order by campaign_id",
        {"since": _text(since)},
    )
    first, rows = None, 0
    for number, (campaign, count) in enumerate(found):
        first = campaign if first is None else first
        rows += count
        if rows >= _SLICE_ROWS or number == len(found) - 1:
            yield first, campaign, rows
            first, rows = None, 0


def _text(moment: datetime) -> str:
    """With milliseconds: the driver would cut a bound datetime to whole seconds."""
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03}"
