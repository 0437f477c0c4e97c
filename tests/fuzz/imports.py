"""What people and systems hand in as files: each row becomes a row or a problem with its number, none vanishes."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from email_platform.audience.lead_file import LEAD_COLUMNS, ImportedLead, LeadFile, RowProblem
from email_platform.audience.lead_rows import lead_rows
from email_platform.domain.addresses import is_valid_address
from email_platform.domain.erasure import NobodyErased
from email_platform.errors import CommandRefusedError
from email_platform.events.received import RECEIVED_SCHEMA, ReceivedBody, from_parquet, to_parquet
from email_platform.events.suppression import SuppressionRequest
from email_platform.events.suppression_csv import parse_csv
from email_platform.runs.legacy_import import Throttle, import_month
from email_platform.runs.legacy_table import (
    KEY_COLUMNS,
    RANGE_IDS,
    SOURCE_SCHEMA,
    Fingerprint,
    Month,
    SourceDescription,
)
from tests.fakes.stores import InMemoryObjectStore
from tests.fuzz.mutation import changed_bytes
from tests.fuzz.target import Target

# --- leads ------------------------------------------------------------------------------------------------------

LEADS = [
    b'email,first_name,age,score,tier\r\nann@example.com,Ann,30,1.50,gold\r\n"b@example.com","B ""q""",,-2,\r\n',
    b"\xef\xbb\xbfemail;x\nann@example.com;1\n",
    b'email,country,city,plan,language,last_name\nx@example.com,de,K\xc3\xb6ln,free,de,"O\'Brien, Jr.\nII"\n',
]


def judged(name: str, content: bytes) -> tuple[Counter[str], int]:
    """What `lead import` makes of a file: rows by their kind, and how many the reader gave."""
    seen: Counter[str] = Counter()
    rows_given = 0
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            header, rows = lead_rows(path, lambda _bytes: None)
            read = LeadFile(header, {}, [each for each in ("score",) if each in header])
        except (ValueError, CommandRefusedError) as refusal:
            assert str(refusal)
            return seen, 0

        def counted() -> Iterator[Any]:
            nonlocal rows_given
            for row in rows:
                rows_given += 1
                yield row

        try:
            for one in read.read(counted()):
                seen[type(one).__name__] += 1
                _judge(one)
        except CommandRefusedError as refusal:
            assert str(refusal)
            return seen, sum(seen.values())
    return seen, rows_given


def _judge(one: ImportedLead | RowProblem) -> None:
    if isinstance(one, RowProblem):
        assert one.problem
        return
    assert is_valid_address(str(one.columns["email"]))
    assert set(one.columns) <= set(LEAD_COLUMNS)
    assert "\0" not in repr(dict(one.columns))
    document = json.loads(one.attributes, parse_float=str, parse_int=str)
    assert isinstance(document, dict)
    one.attributes.encode()


def memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def check_csv(content: bytes) -> None:
    seen, given = judged("leads.csv", content)
    assert sum(seen.values()) == given, "no row vanishes"


def parquet_of(columns: dict[str, Any]) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target)
    return target.getvalue()


PARQUETS = [
    parquet_of({"email": ["ann@example.com", None, "x"], "score": [1.5, float("nan"), None], "tier": ["a", "b", "\0"]}),
    parquet_of({"email": ["ann@example.com"], "score": [2**60], "seen": [datetime(2026, 6, 1, tzinfo=UTC)]}),
    parquet_of({"email": pa.array([b"\xff\xfe"]), "age": pa.array([130], pa.uint8()), "l": pa.array([[1, None]])}),
    parquet_of({"email": pa.array([], pa.string())}),
    to_parquet([ReceivedBody("ses", "default", datetime(2026, 6, 1, tzinfo=UTC), "m", b"{}")]),
]


def check_parquet(content: bytes) -> None:
    seen, given = judged("leads.parquet", content)
    assert sum(seen.values()) == given, "no row vanishes"


def check_received(content: bytes) -> None:
    """An object of the inbox that is damaged is an error of Arrow's, which the inbox knows; never other bodies."""
    try:
        bodies = from_parquet(content)
    except (pa.ArrowException, OSError):
        return
    assert all(isinstance(body.body, bytes) and body.provider is not None for body in bodies)
    assert pa.Table.from_pylist([], RECEIVED_SCHEMA).schema == RECEIVED_SCHEMA


# --- suppressions -----------------------------------------------------------------------------------------------

SUPPRESSIONS = [
    b"address,sender_id,reason,source,created_at\nann@example.com,,manual,import,2026-06-01T00:00:00Z\n"
    b'b@example.com,7,complained,\'=x,\n\n"c@example.com",9,,,\n',
    b"\xef\xbb\xbfaddress\r\nann@example.com\r\n",
]


def check_suppressions(content: bytes) -> None:
    lines = io.BytesIO(content).readlines()
    try:
        read = list(parse_csv(lines, {7}))
    except ValueError as refusal:
        assert str(refusal)
        return
    filled = sum(1 for line in lines[1:] if line.strip(b"\r\n"))
    assert len(read) <= filled
    for one in read:
        if isinstance(one, SuppressionRequest):
            assert "@" in one.address
            assert one.sender_id in (0, 7)
            one.address.encode()
            one.source.encode()


# --- the old table ----------------------------------------------------------------------------------------------

MONTH = Month(2024, 2)
Row = dict[str, Any]
ROW_ID = st.integers(0, 3).map(lambda each: each * RANGE_IDS // 2 + each)


class OldTable:
    """The old table and the warehouse's copy, in dictionaries: what `import_month` needs of either.

    Fingerprints are computed on both sides from the rows, as the engines do it, and loads read the staged Parquet.
    """

    def __init__(self, rows: list[Row]) -> None:
        self.rows = {row["id"]: row for row in rows}
        self.store = InMemoryObjectStore()
        self.copied: dict[tuple[int, ...], Row] = {}
        self.version = 0

    # The source.
    def describe(self) -> SourceDescription:
        return SourceDescription("h:1/d", "email", True, None)

    def fingerprints_of_source(self, start: datetime, end: datetime, with_checksums: bool) -> dict[int, Fingerprint]:
        found = [row for row in self.rows.values() if start <= row["created_at"] < end]
        prints = by_range(found)
        return prints if with_checksums else {at: Fingerprint(one.rows, None) for at, one in prints.items()}

    @contextmanager
    def snapshot(self, month: Month, range_index: int) -> Iterator[Snapshot]:
        self.version += 1
        yield Snapshot(self.rows, month, range_index, self.version)

    # The warehouse.
    def load(self, staged: Any) -> int:
        for row in pq.read_table(io.BytesIO(self.store.get(staged.key))).to_pylist():
            key = tuple(row[name] for name in KEY_COLUMNS)
            if key not in self.copied or self.copied[key]["version"] <= row["version"]:
                self.copied[key] = row
        return int(staged.rows)

    def live(self) -> list[Row]:
        names = SOURCE_SCHEMA.names
        return [{name: row[name] for name in names} for row in self.copied.values() if not row["is_deleted"]]

    def record(self, staged: Any, campaign_id: int | None) -> None:
        assert pq.read_table(io.BytesIO(self.store.get(staged.key))).num_rows == staged.rows

    def mark_loaded(self, staged: Any, rows: int) -> None:
        assert rows == staged.rows


class Source:
    def __init__(self, table: OldTable) -> None:
        self.describe, self.snapshot = table.describe, table.snapshot
        self._table = table

    def fingerprints(self, start: datetime, end: datetime, *, with_checksums: bool) -> dict[int, Fingerprint]:
        return self._table.fingerprints_of_source(start, end, with_checksums)


class Copy:
    def __init__(self, table: OldTable) -> None:
        self._table = table

    def fingerprints(self, month: Month) -> dict[int, Fingerprint]:
        return by_range([row for row in self._table.live() if month.start <= row["created_at"] < month.end])

    def pseudonymous_ids(self, month: Month) -> dict[int, list[int]]:
        return {}

    def keys(self, month: Month, range_index: int) -> pa.Table:
        rows = [
            row
            for row in self._table.live()
            if month.start <= row["created_at"] < month.end and row["id"] // RANGE_IDS == range_index
        ]
        schema = pa.schema([SOURCE_SCHEMA.field(name) for name in KEY_COLUMNS])
        return pa.Table.from_pylist([{name: row[name] for name in KEY_COLUMNS} for row in rows], schema)


class Snapshot:
    def __init__(self, rows: dict[int, Row], month: Month, range_index: int, version: int) -> None:
        self.version = version
        self._all = rows
        self._rows = [
            row
            for _, row in sorted(rows.items())
            if month.start <= row["created_at"] < month.end and row["id"] // RANGE_IDS == range_index
        ]

    def fingerprint(self) -> Fingerprint:
        return (
            by_range(self._rows).get(self._rows[0]["id"] // RANGE_IDS, Fingerprint()) if self._rows else Fingerprint()
        )

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from pa.Table.from_pylist(self._rows, SOURCE_SCHEMA).to_batches(2)

    def rows_of(self, ids: Any) -> pa.Table:
        return pa.Table.from_pylist([self._all[each] for each in ids if each in self._all], SOURCE_SCHEMA)


def by_range(rows: list[Row]) -> dict[int, Fingerprint]:
    found: dict[int, Fingerprint] = {}
    for row in rows:
        text = repr([str(row[name]) for name in SOURCE_SCHEMA.names]).encode()
        one = Fingerprint(1, int.from_bytes(hashlib.md5(text, usedforsecurity=False).digest()[:7], "big"))
        at = row["id"] // RANGE_IDS
        found[at] = found.get(at, Fingerprint()) + one
    return found


def old_rows(content: bytes, count: int) -> tuple[list[Row], bytes]:
    """Rows read off the input, eight bytes and a text each: so that what is found can be kept as bytes."""
    rows: list[Row] = []
    for _ in range(count):
        if len(content) < 8:
            break
        head, content = content[:8], content[8:]
        text = content[: head[7] % 24].decode("utf-8", "ignore").replace("\0", "")
        content = content[head[7] % 24 :]
        created_at = MONTH.start + timedelta(hours=head[0] * 4 - 100, microseconds=head[1])
        rows.append(
            {
                "id": (head[2] % 5) * RANGE_IDS // 2 + head[3] % 3,
                "campaign_id": head[4] % 3,
                "user_id": head[5],
                "lead_id": head[6] % 3,
                "email": text,
                "subject": text[::-1],
                "status": ("sent", "bounced", text)[head[7] % 3],
                "provider_message_id": text or None,
                "error": None if head[6] % 2 else text,
                "sent_at": created_at if head[5] % 2 else None,
                "created_at": created_at,
                "updated_at": created_at,
            }
        )
    return rows, content


def check_old_table(content: bytes) -> None:
    """Import, change the source, import again, in this month and the next: the copy is the source, each time."""
    table = OldTable([])
    now = 0.0
    for count in (6, 4, 4):
        rows, content = old_rows(content, count)
        for row in rows:
            if row["id"] in table.rows and row["user_id"] % 4 == 0:
                del table.rows[row["id"]]
            else:
                table.rows[row["id"]] = row
        for month in (Month(2024, 1), MONTH, Month(2024, 3)):
            throttle = Throttle(1e9, lambda: now, lambda _seconds: None)
            parts: Any = table  # stands for the register and the warehouse: what `import_month` asks of them
            report = import_month(
                Source(table), table.store, parts, parts, Copy(table), month, throttle, NobodyErased()
            )
            assert report.differences() == []
        held = {row["id"]: row for row in table.live()}
        wanted = {
            number: row
            for number, row in table.rows.items()
            if Month(2024, 1).start <= row["created_at"] < Month(2024, 3).end
        }
        assert held == wanted
        assert len(held) == len(table.live()), "each old id is one row"


TARGETS = [
    Target("leads-csv", changed_bytes(LEADS), check_csv, 200),
    Target("leads-parquet", changed_bytes(PARQUETS), check_parquet, 200),
    Target("inbox-parquet", changed_bytes(PARQUETS[-1:]), check_received, 150),
    Target("suppressions-csv", changed_bytes(SUPPRESSIONS), check_suppressions, 200),
    Target("legacy-import", st.binary(min_size=16, max_size=260), check_old_table, 60),
]
