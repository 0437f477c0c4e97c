"""The register of staged objects in PostgreSQL, one row per object key.

Invariant: an object is offered for loading until exactly its present content is marked as loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Engine, Text, and_, any_, bindparam, case, func, or_, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert

from email_platform.adapters.postgres.tables import campaign, staged_object
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.odd_rows import LATEST
from email_platform.domain.ports import StagedObject

_IS_WAITING = and_(
    staged_object.c.loaded_sha256.is_distinct_from(staged_object.c.content_sha256),
    staged_object.c.quarantined_reason.is_(None),
)


def _staged_before(waiting_seconds: float) -> ColumnElement[bool]:
    return staged_object.c.staged_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, waiting_seconds)


class PostgresStagingRegister:
    """`email_platform.staging.delivery_objects.StagingRegister` over the table ``staged_object``.

    Length: one Protocol, each of its methods one short statement on the same table.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, staged: StagedObject, campaign_id: int | None) -> None:
        """Register the object; a new content lifts a quarantine, since it may have been repaired."""
        statement = insert(staged_object).values(
            key=staged.key,
            kind=staged.kind,
            campaign_id=campaign_id,
            rows=staged.rows,
            content_sha256=staged.content_sha256,
            staged_at=func.now(),
        )
        new = statement.excluded
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=[staged_object.c.key],
                    set_={
                        "rows": new.rows,
                        "content_sha256": new.content_sha256,
                        "staged_at": new.staged_at,
                        "quarantined_reason": None,
                    },
                    where=staged_object.c.content_sha256 != new.content_sha256,
                )
            )

    def registered(self, keys: Collection[str]) -> Mapping[str, StagedObject]:
        """The register's entries for these keys."""
        columns = staged_object.c
        statement = select(columns.key, columns.kind, columns.rows, columns.content_sha256).where(
            columns.key == any_(bindparam("keys", list(keys), ARRAY(Text)))
        )
        with oltp_transaction(self._engine) as connection:
            rows = connection.execute(statement).all()
        return {row.key: StagedObject(row.key, row.kind, row.rows, row.content_sha256) for row in rows}

    def adopt(self, found: Sequence[tuple[StagedObject, int | None]], seen: Mapping[str, StagedObject]) -> None:
        """Register objects that were found in the bucket; sorted by key, as `mark_all_loaded`."""
        if not found:
            return
        statement = insert(staged_object).values(
            key=bindparam("its_key"),
            kind=bindparam("its_kind"),
            campaign_id=bindparam("its_campaign"),
            rows=bindparam("its_rows"),
            content_sha256=bindparam("its_content"),
            staged_at=func.now(),
        )
        new = statement.excluded
        statement = statement.on_conflict_do_update(
            index_elements=[staged_object.c.key],
            set_={
                "rows": new.rows,
                "content_sha256": new.content_sha256,
                "staged_at": new.staged_at,
                "quarantined_reason": None,
            },
            where=staged_object.c.content_sha256 == bindparam("seen_content", type_=Text),  # null: never
        )
        values = [
            {
                "its_key": staged.key,
                "its_kind": staged.kind,
                "its_campaign": campaign_id,
                "its_rows": staged.rows,
                "its_content": staged.content_sha256,
                "seen_content": seen[staged.key].content_sha256 if staged.key in seen else None,
            }
            for staged, campaign_id in found
        ]
        with oltp_transaction(self._engine) as connection:
            connection.execute(statement, sorted(values, key=lambda row: str(row["its_key"])))

    def unloaded(self, campaign_id: int | None = None, limit: int = 1000) -> Sequence[StagedObject]:
        """Objects whose present content is not loaded and not quarantined, the oldest first."""
        columns = staged_object.c
        statement = (
            select(columns.key, columns.kind, columns.rows, columns.content_sha256)
            .where(_IS_WAITING)
            .order_by(columns.staged_at, columns.key)
            .limit(limit)
        )
        if campaign_id is not None:
            statement = statement.where(columns.campaign_id == campaign_id)
        with oltp_transaction(self._engine) as connection:
            return [
                StagedObject(row.key, row.kind, row.rows, row.content_sha256) for row in connection.execute(statement)
            ]

    def of_campaign(self, campaign_id: int) -> Sequence[StagedObject]:
        """Every registered object of the campaign, loaded, quarantined or neither, by key."""
        columns = staged_object.c
        statement = (
            select(columns.key, columns.kind, columns.rows, columns.content_sha256)
            .where(columns.campaign_id == campaign_id)
            .order_by(columns.key)
        )
        with oltp_transaction(self._engine) as connection:
            return [
                StagedObject(row.key, row.kind, row.rows, row.content_sha256) for row in connection.execute(statement)
            ]

    def mark_loaded(self, staged: StagedObject, loaded_rows: int) -> None:
        """Record that the warehouse holds this content."""
        self.mark_all_loaded([(staged, loaded_rows)])

    def mark_all_loaded(self, loaded: Sequence[tuple[StagedObject, int]]) -> None:
        """Record the same for many objects; sorted by key, so that two loaders never wait for each other."""
        if not loaded:
            return
        columns = staged_object.c
        statement = (
            update(staged_object)
            .where(columns.key == bindparam("its_key"), columns.content_sha256 == bindparam("its_content"))
            .values(
                loaded_sha256=bindparam("its_content"),
                loaded_rows=bindparam("its_rows"),
                loaded_at=func.clock_timestamp(),
                quarantined_reason=None,
            )
        )
        rows = sorted((staged.key, staged.content_sha256, count) for staged, count in loaded)
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                statement,
                [{"its_key": key, "its_content": content, "its_rows": count} for key, content, count in rows],
            )

    def quarantine(self, staged: StagedObject, reason: str) -> None:
        """Set the object aside until its content changes."""
        self._update(staged, quarantined_reason=reason)

    def _update(self, staged: StagedObject, **values: object) -> None:
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                update(staged_object)
                .where(
                    staged_object.c.key == staged.key,
                    staged_object.c.content_sha256 == staged.content_sha256,
                )
                .values(**values)
            )

    def staged_rows(self, campaign_id: int) -> dict[str, tuple[int, int]]:
        """By kind: rows staged, and rows of them that are loaded."""
        columns = staged_object.c
        is_loaded = columns.loaded_sha256 == columns.content_sha256
        statement = (
            select(
                columns.kind,
                func.sum(columns.rows),
                func.coalesce(func.sum(case((is_loaded, columns.loaded_rows))), 0),
            )
            .where(columns.campaign_id == campaign_id)
            .group_by(columns.kind)
        )
        with oltp_transaction(self._engine) as connection:
            rows = connection.execute(statement).all()
        return {row[0]: (int(row[1]), int(row[2])) for row in rows}

    def known(self) -> dict[str, StagedObject]:
        """Every registered object by its key, loaded or not."""
        columns = staged_object.c
        statement = select(columns.key, columns.kind, columns.rows, columns.content_sha256)
        with oltp_transaction(self._engine) as connection:
            return {
                row.key: StagedObject(row.key, row.kind, row.rows, row.content_sha256)
                for row in connection.execute(statement)
            }

    def waiting_objects(self, waiting_seconds: float) -> int:
        """How many objects have waited at least this long to be loaded."""
        statement = select(func.count()).where(_IS_WAITING, _staged_before(waiting_seconds))
        with oltp_transaction(self._engine) as connection:
            return connection.execute(statement).scalar_one()

    def objects_due(self, waiting_seconds: float) -> int:
        """How many objects have waited at least this long, or belong to a campaign whose sending is over."""
        is_over = (
            select(campaign.c.id)
            .where(campaign.c.id == staged_object.c.campaign_id, campaign.c.status.not_in(["queued", "sending"]))
            .exists()
        )
        statement = select(func.count()).where(_IS_WAITING, or_(_staged_before(waiting_seconds), is_over))
        with oltp_transaction(self._engine) as connection:
            return connection.execute(statement).scalar_one()

    def last_change_at(self) -> datetime | None:
        """When the warehouse was last loaded or a campaign last started or ended; reads the end of three indexes.

        A time that cannot have been meant (infinity) is ignored, or it would stay the newest for ever.
        """
        newest = [
            select(func.max(column)).where(column < LATEST).scalar_subquery()
            for column in (staged_object.c.loaded_at, campaign.c.started_at, campaign.c.finished_at)
        ]
        with oltp_transaction(self._engine) as connection:
            changed_at: datetime | None = connection.execute(select(func.greatest(*newest))).scalar_one()
            return changed_at
