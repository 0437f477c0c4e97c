"""Campaigns in PostgreSQL.

Invariant: a status changes under the row's lock, after `check_transition` on the status read under it; a campaign
becomes sent only where, under that lock, every chunk of it is finished. No row can make a statement that reads many
campaigns raise: a value that cannot be read becomes that campaign's `problem`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    Row,
    Select,
    Update,
    all_,
    any_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    text,
    update,
)

from email_platform.adapters.postgres.tables import app_user, campaign, campaign_manifest, chunk, sender
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.campaigns import (
    LONGEST_PAUSE,
    Campaign,
    CampaignContent,
    CampaignStatus,
    Sender,
    check_transition,
)
from email_platform.domain.odd_rows import LATEST, Unreadable, is_odd_time
from email_platform.domain.texts import without_nul
from email_platform.errors import AccountingError, CampaignArchivedError, CampaignNotFoundError, IllegalTransitionError

_STARTED = {CampaignStatus.SENDING}
_SCHEDULED = {CampaignStatus.DRAFT, CampaignStatus.QUEUED, CampaignStatus.PAUSED, CampaignStatus.FAILED}
_ENDED = (CampaignStatus.SENT, CampaignStatus.CANCELLED)  # nothing more will be sent by itself
# Word for word the conditions of the partial indexes, or PostgreSQL does not use them.
_UNLAUNCHED = text("campaign.status = 'queued' and campaign.launched_attempt < campaign.attempt")
_AT_WORK = text(
    "(campaign.status = 'sending' or (campaign.status = 'queued' and campaign.launched_attempt >= campaign.attempt))"
)
_FINISHED = {CampaignStatus.SENT, CampaignStatus.CANCELLED, CampaignStatus.FAILED}


def change_status(connection: Connection, campaign_id: int, wanted: CampaignStatus, reason: str | None) -> None:
    """Make one legal change of status in the caller's transaction, under the row's lock.

    Raises:
        CampaignNotFoundError, IllegalTransitionError, AccountingError, CampaignArchivedError: nothing was changed.
    """
    current: str | None = connection.execute(
        select(campaign.c.status).where(campaign.c.id == campaign_id).with_for_update()
    ).scalar_one_or_none()
    if current is None:
        raise CampaignNotFoundError(campaign_id)
    values: dict[str, Any] = {"status_reason": without_nul(reason)}
    if current != wanted:
        check_transition(campaign_id, CampaignStatus(current), wanted)
        _require_ledger(connection, campaign_id, wanted)
        if wanted is CampaignStatus.SENT:
            _require_finished_chunks(connection, campaign_id)
        values["status"] = wanted
        if wanted is CampaignStatus.QUEUED:
            values |= {"queued_at": func.now(), "finished_at": None, "fruitless_attempts": 0, "estimated_rows": None}
            if current != CampaignStatus.DRAFT:
                values["attempt"] = campaign.c.attempt + 1  # a new run key: the old one was used
        if wanted in _STARTED:
            values["started_at"] = func.coalesce(campaign.c.started_at, func.now())
        if wanted in _FINISHED:
            values["finished_at"] = func.now()
    if wanted in _STARTED:
        values["progress_at"] = func.clock_timestamp()
    connection.execute(update(campaign).where(campaign.c.id == campaign_id).values(**values))


def _require_ledger(connection: Connection, campaign_id: int, wanted: CampaignStatus) -> None:
    """Whoever archives a ledger holds the campaign's lock too."""
    if wanted not in (CampaignStatus.QUEUED, CampaignStatus.SENDING):
        return
    archived = select(campaign_manifest.c.archived_at).where(campaign_manifest.c.campaign_id == campaign_id)
    if (archived_at := connection.execute(archived).scalar_one_or_none()) is not None:
        raise CampaignArchivedError(campaign_id, archived_at)


def _require_finished_chunks(connection: Connection, campaign_id: int) -> None:
    """A fenced process may unfinish a chunk at any moment, but then it holds a lock on the campaign's row as well."""
    unfinished = select(func.count()).where(chunk.c.campaign_id == campaign_id, chunk.c.finished_at.is_(None))
    if chunks := connection.execute(unfinished).scalar_one():
        raise AccountingError(f"campaign {campaign_id} is not sent: {chunks} of its chunks are not finished")


class PostgresCampaignStore:
    """`email_platform.domain.campaigns.CampaignStore` over the tables ``campaign`` and ``sender``.

    Length: one Protocol, each of its methods one short statement on the same two tables.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, campaign_id: int) -> Campaign:
        """The campaign with its sender; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            return self._read(connection, campaign_id)

    def newest(
        self, limit: int, status: CampaignStatus | None = None, owner_email: str | None = None
    ) -> Sequence[Campaign]:
        """Campaigns, the newest first; see the Protocol."""
        statement = self._campaigns().order_by(campaign.c.id.desc()).limit(limit)
        if status is not None:
            statement = statement.where(campaign.c.status == status)
        if owner_email is not None:
            owned = select(app_user.c.id).where(app_user.c.email == owner_email).scalar_subquery()
            statement = statement.where(campaign.c.owner_id == owned)
        with oltp_transaction(self._engine) as connection:
            return [self._campaign(row) for row in connection.execute(statement)]

    def schedule(self, campaign_id: int, moment: datetime) -> Campaign:
        """Have the campaign sent not before this moment; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            locked = select(campaign.c.status).where(campaign.c.id == campaign_id).with_for_update()
            current: str | None = connection.execute(locked).scalar_one_or_none()
            if current is None:
                raise CampaignNotFoundError(campaign_id)
            if current not in _SCHEDULED:
                raise IllegalTransitionError(f"campaign {campaign_id} is {current}: it cannot be scheduled any more")
            connection.execute(update(campaign).where(campaign.c.id == campaign_id).values(scheduled_at=moment))
            return self._read(connection, campaign_id)

    def due(self, small_first: int, longest_waiting: int, behind: Collection[int] = ()) -> Sequence[Campaign]:
        """Queued campaigns to launch next; see the Protocol.

        Both statements read the partial index of campaigns without a run: launched ones cost nothing.
        """
        # Only where there are such: with it the index's own order is of no use.
        last = [campaign.c.id == any_(literal(list(behind), ARRAY(BigInteger)))] if behind else []
        by_size = (*last, campaign.c.estimated_rows.asc().nulls_last(), campaign.c.id)
        waiting_since = func.coalesce(campaign.c.scheduled_at, campaign.c.queued_at, campaign.c.created_at)
        with oltp_transaction(self._engine) as connection:
            small = connection.execute(self._due().order_by(*by_size).limit(small_first)).all()
            others = (
                self._due()
                .where(campaign.c.id != all_(literal([row.id for row in small], ARRAY(BigInteger))))
                .order_by(*last, waiting_since, campaign.c.id)
                .limit(longest_waiting)
            )
            waiting = connection.execute(others).all() if len(small) == small_first else []
            return [self._campaign(row) for row in (*small, *waiting)]

    def unsized(self, limit: int) -> Sequence[Campaign]:
        """Those of these campaigns whose recipients have not been counted yet; see the Protocol."""
        statement = self._due().where(campaign.c.estimated_rows.is_(None)).order_by(campaign.c.id.desc()).limit(limit)
        with oltp_transaction(self._engine) as connection:
            return [self._campaign(row) for row in connection.execute(statement)]

    def note_sizes(self, rows: Mapping[int, int]) -> None:
        """Store how many recipients campaigns still have to reach."""
        self._note(rows, update(campaign).values(estimated_rows=bindparam("noted")))

    def note_launched(self, attempts: Mapping[int, int]) -> None:
        """Record that Dagster has a run of these attempts."""
        is_news = campaign.c.launched_attempt < bindparam("noted", type_=Integer)
        self._note(attempts, update(campaign).where(is_news).values(launched_attempt=bindparam("noted")))

    def _note(self, values: Mapping[int, int], statement: Update) -> None:
        """One transaction, in order of the ids, so that two callers never wait for each other in a circle."""
        if not values:
            return
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                statement.where(campaign.c.id == bindparam("its_id")),
                [{"its_id": campaign_id, "noted": values[campaign_id]} for campaign_id in sorted(values)],
            )

    def change_status(self, campaign_id: int, wanted: CampaignStatus, reason: str | None = None) -> Campaign:
        """Make one legal change of status under the row's lock; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            change_status(connection, campaign_id, wanted, reason)
            return self._read(connection, campaign_id)

    def note_progress(self, campaign_id: int) -> None:
        """Record that a run is working on the campaign; does nothing where the row is gone."""
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                update(campaign).where(campaign.c.id == campaign_id).values(progress_at=func.clock_timestamp())
            )

    def silent(self, silent_seconds: float, after_id: int, limit: int) -> Sequence[Campaign]:
        """Campaigns that should be worked on, without a sign of life from any run; see the Protocol.

        A chunk's lease is such a sign: it is renewed while its calls are made. A time that cannot be read does not
        count as one.
        """
        # Bounded before it is a power, which overflows from about 1,000 on and would fail the statement for everybody.
        pauses = func.least(func.power(2, func.least(campaign.c.fruitless_attempts, 30)), LONGEST_PAUSE)
        long_ago = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, silent_seconds * pauses)
        last_sign_at = func.greatest(
            _ordinary(func.coalesce(campaign.c.progress_at, campaign.c.created_at)),
            case((campaign.c.status == CampaignStatus.QUEUED, _ordinary(campaign.c.queued_at))),
            case((campaign.c.status == CampaignStatus.QUEUED, _ordinary(campaign.c.scheduled_at))),
            func.to_timestamp(0),
        )
        leased = select(chunk.c.campaign_id).where(
            chunk.c.campaign_id == campaign.c.id,
            chunk.c.lease_holder.is_not(None),
            chunk.c.lease_expires_at > long_ago,
        )
        statement = (
            self._campaigns()
            .where(_AT_WORK, campaign.c.id > after_id, last_sign_at < long_ago, ~leased.exists())
            .order_by(campaign.c.id)
            .limit(limit)
        )
        with oltp_transaction(self._engine) as connection:
            return [self._campaign(row) for row in connection.execute(statement)]

    def ended_before(self, moment: datetime, campaign_ids: Sequence[int]) -> Sequence[int]:
        """Which of these campaigns were sent or cancelled before the moment, in order of their ids."""
        statement = (
            select(campaign.c.id)
            .where(
                campaign.c.id == any_(literal(list(campaign_ids), ARRAY(BigInteger))),
                campaign.c.status.in_(_ENDED),
                campaign.c.finished_at < moment,
            )
            .order_by(campaign.c.id)
        )
        with oltp_transaction(self._engine) as connection:
            return list(connection.execute(statement).scalars())

    def begin_attempt(self, campaign_id: int, attempt: int, mark: int) -> bool:
        """Count the attempt if the present one is an earlier one; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            return bool(
                connection.execute(
                    update(campaign)
                    .where(
                        campaign.c.id == campaign_id,
                        campaign.c.attempt < attempt,
                        campaign.c.status.in_((CampaignStatus.QUEUED, CampaignStatus.SENDING)),
                    )
                    .values(
                        attempt=attempt,
                        launched_attempt=attempt,
                        progress_at=func.clock_timestamp(),
                        fruitless_attempts=case(
                            (campaign.c.attempt_mark == mark, campaign.c.fruitless_attempts + 1), else_=0
                        ),
                        attempt_mark=mark,
                    )
                ).rowcount
            )

    def _due(self) -> Select[Any]:
        """Queued campaigns whose time has come, or cannot be read, and that have no recorded run."""
        return self._campaigns().where(
            _UNLAUNCHED,
            or_(
                campaign.c.scheduled_at.is_(None),
                campaign.c.scheduled_at <= func.now(),
                campaign.c.scheduled_at >= LATEST,
            ),
        )

    @staticmethod
    def _campaigns() -> Select[Any]:
        return select(
            campaign,
            sender.c.from_address,
            sender.c.from_name,
            sender.c.reply_to,
            sender.c.provider,
            sender.c.provider_account,
            sender.c.owner_id.label("sender_owner_id"),
        ).outerjoin(sender, sender.c.id == campaign.c.sender_id)

    def _read(self, connection: Connection, campaign_id: int) -> Campaign:
        row = connection.execute(self._campaigns().where(campaign.c.id == campaign_id)).one_or_none()
        if row is None:
            raise CampaignNotFoundError(campaign_id)
        return self._campaign(row)

    @staticmethod
    def _campaign(row: Row[Any]) -> Campaign:
        return Campaign(
            campaign_id=row.id,
            owner_id=row.owner_id,
            name=row.name,
            sender=Sender(
                sender_id=row.sender_id,
                owner_id=row.owner_id if row.sender_owner_id is None else row.sender_owner_id,
                from_address=row.from_address or "",
                from_name=row.from_name or "",
                reply_to=row.reply_to,
                provider=row.provider or "",
                provider_account=row.provider_account or "",
            ),
            content=CampaignContent(
                row.subject_template, row.html_template, row.text_template, row.mjml, row.inline_css
            ),
            condition=row.condition,
            status=CampaignStatus(row.status),
            status_reason=row.status_reason,
            scheduled_at=row.scheduled_at,
            attempt=row.attempt,
            on_unknown=row.on_unknown,
            created_at=row.created_at,
            finished_at=row.finished_at,
            fruitless_attempts=row.fruitless_attempts,
            attempt_mark=row.attempt_mark,
            estimated_rows=row.estimated_rows,
            problem=_problem(row),
            version=row.version,
            queued_at=row.queued_at,
            started_at=row.started_at,
            progress_at=row.progress_at,
            launched_attempt=row.launched_attempt,
        )


def _ordinary(moment: ColumnElement[Any]) -> ColumnElement[Any]:
    """The time, or null where it cannot have been meant (such as infinity); `greatest` ignores null."""
    return case((~func.is_odd_time(moment), moment))


def _problem(row: Row[Any]) -> str | None:
    """The unreadable values that decide whom the campaign mails and when; None where all can be read."""
    problems = []
    if row.sender_owner_id is None:
        problems.append(f"its sender {row.sender_id} is not there: add it, or give the campaign another one")
    elif not row.from_address:
        problems.append(f"its sender {row.sender_id} has no address: give it one")
    if isinstance(row.condition, Unreadable):
        problems.append(f"its condition {row.condition.reason}: write one that docs/conditions.md allows")
    if is_odd_time(row.scheduled_at):
        problems.append(
            "its scheduled_at is infinite or outside the years 1 to 9999: set a time, or null for as soon as possible"
        )
    return f"{'; '.join(problems)}; then queue the campaign again" if problems else None
