"""Which manifest of a campaign counts, in PostgreSQL: the first one inserted, for ever.

Invariant: a campaign's manifest and its chunks' rows appear in one transaction and are never replaced, whichever other
process resolves the same campaign at the same time.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, Row, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from email_platform.adapters.postgres.tables import campaign_manifest, chunk
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.campaigns import CampaignContent, Sender
from email_platform.domain.manifest import EXCLUSION_REASONS, Manifest


class PostgresManifestStore:
    """`email_platform.domain.manifest.ManifestStore` over ``campaign_manifest`` and ``chunk``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, campaign_id: int) -> Manifest | None:
        """The campaign's frozen manifest, or None where its audience was never frozen."""
        with oltp_transaction(self._engine) as connection:
            return _find(connection, campaign_id)

    def freeze(self, manifest: Manifest) -> Manifest:
        """Make this the campaign's manifest, with its chunks; returns the earlier one where there is one.

        Safe to repeat: a second call with the same manifest, or after an unclear commit, changes nothing.
        """
        with oltp_transaction(self._engine) as connection:
            inserted = connection.execute(
                insert(campaign_manifest)
                .values(
                    campaign_id=manifest.campaign_id,
                    manifest_id=manifest.manifest_id,
                    prefix=manifest.prefix,
                    eligible_rows=manifest.eligible_rows,
                    excluded_by_reason=dict(manifest.excluded_by_reason),
                    chunk_rows=manifest.chunk_rows,
                    call_rows=manifest.call_rows,
                    sender=asdict(manifest.sender),
                    content=asdict(manifest.content),
                    on_unknown=manifest.on_unknown,
                    frozen_at=manifest.frozen_at,
                    condition=manifest.condition,
                )
                .on_conflict_do_nothing(index_elements=[campaign_manifest.c.campaign_id])
                .returning(campaign_manifest.c.campaign_id)
            ).one_or_none()
            if inserted is not None and manifest.chunk_count:
                _insert_chunks(connection, manifest)
            # In READ COMMITTED this statement sees the winner's row: the insert above waited for its commit.
            frozen = _find(connection, manifest.campaign_id)
        if frozen is None:  # pragma: no cover  # nothing deletes manifests
            raise LookupError(f"campaign {manifest.campaign_id} has no manifest although one was just in the way")
        return frozen


def _insert_chunks(connection: Connection, manifest: Manifest) -> None:
    indexes = func.generate_series(0, manifest.chunk_count - 1)
    rows = select(literal(manifest.campaign_id, BigInteger), indexes)
    connection.execute(insert(chunk).from_select([chunk.c.campaign_id, chunk.c.chunk_index], rows))


def _find(connection: Connection, campaign_id: int) -> Manifest | None:
    statement = select(campaign_manifest).where(campaign_manifest.c.campaign_id == campaign_id)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _manifest(row)


def _manifest(row: Row[Any]) -> Manifest:
    return Manifest(
        campaign_id=row.campaign_id,
        manifest_id=row.manifest_id,
        prefix=row.prefix,
        eligible_rows=row.eligible_rows,
        # A manifest older than a reason for exclusion excluded nobody for that reason.
        excluded_by_reason={reason: row.excluded_by_reason.get(reason, 0) for reason in EXCLUSION_REASONS},
        chunk_rows=row.chunk_rows,
        call_rows=row.call_rows,
        sender=Sender(**row.sender),
        content=CampaignContent(**row.content),
        on_unknown=row.on_unknown,
        frozen_at=row.frozen_at,
        archived_at=row.archived_at,
        condition=row.condition,
    )
