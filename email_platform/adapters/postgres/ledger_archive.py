"""Moves the call ledger of a campaign that ended long ago into the bucket, and back.

Invariant: a row is deleted only after the object with it is stored and after the manifest's row says, under the
campaign's lock, that the ledger is archived. The manifest's row itself stays for ever: it is what keeps an audience
from being frozen a second time. Without chunk rows nobody can take a lease, so nothing can be sent meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection, Engine, Integer, and_, exists, func, insert, select, update

from email_platform.adapters.postgres.ledger_rows import campaign_totals
from email_platform.adapters.postgres.tables import campaign, campaign_manifest, chunk, send_call, staged_object
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.campaigns import CampaignStatus
from email_platform.domain.ports import ObjectStore
from email_platform.domain.storage_layout import archived_ledger_key
from email_platform.errors import CommandRefusedError

_ENDED = (CampaignStatus.SENT, CampaignStatus.CANCELLED)
_ROWS_PER_GROUP = 2_000
_ROWS_PER_DELETE = 5_000
_CHUNKS, _CONTENT = b"email_platform.chunks", b"email_platform.content"
_EMPTY_CONTENT = {"subject_template": "", "html_template": "", "text_template": ""}

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("chunk_index", pa.int32(), nullable=False),
        pa.field("call_index", pa.int32(), nullable=False),
        pa.field("call_id", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("first_position", pa.int64(), nullable=False),
        pa.field("recipient_count", pa.int16(), nullable=False),
        pa.field("body_sha256", pa.binary(), nullable=False),
        pa.field("lease_epoch", pa.int64(), nullable=False),
        pa.field("attempts", pa.int16(), nullable=False),
        pa.field("intent_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("receipt_at", pa.timestamp("us", tz="UTC")),
        pa.field("receipt", pa.string()),  # JSON
        pa.field("error", pa.string()),
        pa.field("offsets", pa.list_(pa.int32())),
        pa.field("follows", pa.string()),
        pa.field("after_unknown", pa.bool_(), nullable=False),
    ]
)


class PostgresLedgerArchive:
    """`email_platform.runs.retention.LedgerArchive` over the ledger's tables and the bucket.

    Length: one Protocol, each of its methods one step of the same move.
    """

    def __init__(self, engine: Engine, store: ObjectStore) -> None:
        self._engine = engine
        self._store = store

    def due(self, ended_before: datetime, after_id: int, limit: int) -> Sequence[int]:
        """The next campaigns by id that ended before the moment and are not archived."""
        statement = (
            select(campaign.c.id)
            .join(campaign_manifest, campaign_manifest.c.campaign_id == campaign.c.id)
            .where(
                campaign.c.id > after_id,
                campaign.c.status.in_(_ENDED),
                campaign.c.finished_at < ended_before,
                campaign_manifest.c.archived_at.is_(None),
            )
            .order_by(campaign.c.id)
            .limit(limit)
        )
        with oltp_transaction(self._engine) as connection:
            return list(connection.execute(statement).scalars())

    def held_back(self, campaign_id: int) -> str | None:
        """Why the campaign's ledger must stay; None where the bucket and the warehouse have all that it says."""
        columns = staged_object.c
        with oltp_transaction(self._engine) as connection:
            if reason := _not_over(connection, campaign_id):
                return reason
            attempted = campaign_totals(connection, campaign_id).attempted
            objects: Sequence[Any] = connection.execute(
                select(columns.key, columns.kind, columns.rows, columns.loaded_sha256 == columns.content_sha256).where(
                    columns.campaign_id == campaign_id
                )
            ).all()
        if any(not is_loaded for *_, is_loaded in objects):
            return "not all of its objects are loaded"
        deliveries = [(key, rows) for key, kind, rows, _ in objects if kind == "delivery"]
        if (staged := sum(rows for _, rows in deliveries)) != attempted:
            return f"{attempted:,} recipients were attempted, and {staged:,} are staged"
        gone = next((key for key, _ in deliveries if self._store.info(key) is None), None)
        return f"the bucket has no {gone}" if gone else None

    def archive(self, campaign_id: int, ended_before: datetime) -> int | None:
        """Store the ledger as an object and mark it as archived; returns its calls.

        None where the campaign changed meanwhile: nothing is marked then. Safe to repeat.
        """
        rows = self._store_ledger(campaign_id)
        if rows is None:
            return None
        with oltp_transaction(self._engine) as connection:
            locked = connection.execute(
                select(campaign.c.status, campaign.c.finished_at < ended_before)
                .where(campaign.c.id == campaign_id)
                .with_for_update()
            ).one_or_none()
            if locked is None or locked[0] not in _ENDED or not locked[1] or _not_over(connection, campaign_id):
                return None
            is_whole = select(func.count()).where(send_call.c.campaign_id == campaign_id)
            if connection.execute(is_whole).scalar_one() != rows:
                return None
            connection.execute(
                update(campaign_manifest)
                .where(campaign_manifest.c.campaign_id == campaign_id, campaign_manifest.c.archived_at.is_(None))
                .values(
                    archived_at=func.now(),
                    archived_totals=asdict(campaign_totals(connection, campaign_id)),
                    content=_EMPTY_CONTENT,
                )
            )
        return rows

    def half_removed(self, limit: int) -> Sequence[int]:
        """Archived campaigns of which rows may be left."""
        columns = campaign_manifest.c
        statement = select(columns.campaign_id).where(columns.archived_at.is_not(None))
        statement = statement.where(columns.ledger_removed_at.is_(None)).order_by(columns.campaign_id).limit(limit)
        with oltp_transaction(self._engine) as connection:
            return list(connection.execute(statement).scalars())

    def remove(self, campaign_id: int) -> int:
        """Delete the rows of an archived ledger, a few thousand a transaction; returns how many calls.

        Raises:
            CommandRefusedError: the object with them is not in the bucket.
        """
        if self._store.info(archived_ledger_key(campaign_id)) is None:
            raise CommandRefusedError(f"the bucket has no {archived_ledger_key(campaign_id)}; nothing was deleted")
        removed = 0
        while True:
            with oltp_transaction(self._engine) as connection:
                deleted = _delete_some(connection, campaign_id)
                removed += deleted
                if deleted < _ROWS_PER_DELETE:
                    connection.execute(
                        update(campaign_manifest)
                        .where(
                            campaign_manifest.c.campaign_id == campaign_id, campaign_manifest.c.archived_at.is_not(None)
                        )
                        .values(ledger_removed_at=func.now())
                    )
                    return removed

    def restore(self, campaign_id: int) -> int:
        """Bring the ledger back from the bucket in one transaction; returns its calls.

        Raises:
            CommandRefusedError: it is not archived, or the bucket has no such object.
        """
        key = archived_ledger_key(campaign_id)
        if self._store.info(key) is None:
            raise CommandRefusedError(f"the bucket has no {key}: the ledger of campaign {campaign_id} is not archived")
        with self._store.reader(key) as file, oltp_transaction(self._engine) as connection:
            archive = pq.ParquetFile(file)
            found = _lock_manifest(connection, campaign_id)
            if found is None or found.archived_at is None:
                raise CommandRefusedError(f"the ledger of campaign {campaign_id} is not archived")
            metadata: Mapping[bytes, bytes] = archive.schema_arrow.metadata
            while _delete_some(connection, campaign_id) == _ROWS_PER_DELETE:  # what a killed removal left
                pass
            if chunks := json.loads(metadata[_CHUNKS]):
                connection.execute(insert(chunk), [_chunk_row(campaign_id, one) for one in chunks])
            rows = 0
            for batch in archive.iter_batches(_ROWS_PER_GROUP):
                calls = [_call_row(campaign_id, one) for one in batch.to_pylist()]
                connection.execute(insert(send_call), calls)
                rows += len(calls)
            connection.execute(
                update(campaign_manifest)
                .where(campaign_manifest.c.campaign_id == campaign_id)
                .values(
                    archived_at=None,
                    archived_totals=None,
                    ledger_removed_at=None,
                    content=json.loads(metadata[_CONTENT]),
                )
            )
        return rows

    def _store_ledger(self, campaign_id: int) -> int | None:
        """Write the object in row groups, from one snapshot of the rows; returns the calls in it.

        None, and nothing is written, where the ledger is archived: a process that stood still since before another one
        archived it would replace the object by one without the rows that are gone.
        """
        snapshot = self._engine.execution_options(isolation_level="REPEATABLE READ")
        with oltp_transaction(snapshot) as connection:
            chunks = connection.execute(
                select(chunk.c.chunk_index, chunk.c.lease_epoch, chunk.c.finished_at)
                .where(chunk.c.campaign_id == campaign_id)
                .order_by(chunk.c.chunk_index)
            ).all()
            manifest: Any = connection.execute(
                select(campaign_manifest.c.content).where(
                    campaign_manifest.c.campaign_id == campaign_id, campaign_manifest.c.archived_at.is_(None)
                )
            ).scalar_one_or_none()
            if manifest is None:
                return None
            metadata = {
                _CHUNKS: json.dumps([[one[0], one[1], one[2] and one[2].isoformat()] for one in chunks]).encode(),
                _CONTENT: json.dumps(manifest).encode(),
            }
            schema, rows = LEDGER_SCHEMA.with_metadata(metadata), 0
            with self._store.writer(archived_ledger_key(campaign_id)) as file, pq.ParquetWriter(file, schema) as writer:
                for group in _groups(connection, campaign_id):
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
                    rows += len(group)
        return rows


def _delete_some(connection: Connection, campaign_id: int) -> int:
    """Delete rows of the archived ledger, and its chunks with the last of them; returns how many calls.

    By a function of the database (migration 0015): no role has a right to delete from the ledger itself.
    """
    statement = select(func.remove_archived_ledger(campaign_id, _ROWS_PER_DELETE, type_=Integer))
    return int(connection.execute(statement).scalar_one())


def _not_over(connection: Connection, campaign_id: int) -> str | None:
    """What of the campaign may still change by itself."""
    of_calls = send_call.c.campaign_id == campaign_id
    is_leased = and_(
        chunk.c.campaign_id == campaign_id,
        chunk.c.lease_holder.is_not(None),
        chunk.c.lease_expires_at > func.clock_timestamp(),
    )
    if connection.execute(select(exists().where(of_calls, send_call.c.state.in_(("intent", "unknown"))))).scalar():
        return "calls of unknown outcome are left"
    if campaign_totals(connection, campaign_id).unknown:
        return "recipients of unknown outcome are left"
    return "a process holds a chunk of it" if connection.execute(select(exists().where(is_leased))).scalar() else None


def _lock_manifest(connection: Connection, campaign_id: int) -> Any:
    statement = select(campaign_manifest.c.archived_at).where(campaign_manifest.c.campaign_id == campaign_id)
    return connection.execute(statement.with_for_update()).one_or_none()


def _groups(connection: Connection, campaign_id: int) -> Iterator[list[dict[str, Any]]]:
    columns = [send_call.c[name] for name in LEDGER_SCHEMA.names]
    order = (send_call.c.chunk_index, send_call.c.call_index)
    statement = select(*columns).where(send_call.c.campaign_id == campaign_id).order_by(*order)
    result = connection.execution_options(stream_results=True, yield_per=_ROWS_PER_GROUP).execute(statement)
    for rows in result.partitions():
        yield [
            {
                **row._mapping,
                "call_id": str(row.call_id),
                "body_sha256": bytes(row.body_sha256),
                "receipt": None if row.receipt is None else json.dumps(row.receipt),
            }
            for row in rows
        ]


def _chunk_row(campaign_id: int, one: Sequence[Any]) -> dict[str, Any]:
    finished_at = datetime.fromisoformat(one[2]) if one[2] else None
    return {"campaign_id": campaign_id, "chunk_index": one[0], "lease_epoch": one[1], "finished_at": finished_at}


def _call_row(campaign_id: int, row: Mapping[str, Any]) -> dict[str, Any]:
    receipt = None if row["receipt"] is None else json.loads(row["receipt"])
    return {**row, "campaign_id": campaign_id, "call_id": UUID(row["call_id"]), "receipt": receipt}
