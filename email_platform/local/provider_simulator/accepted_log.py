"""The durable record of everything the simulator accepted: the ground truth for tests and reconciliation.

The invariant: nothing here can write; only committed rows are read, so they were on disk before the call was answered
(`accepted_log_writer`).

One SQLite database in the data folder; any process may query it while the simulator runs:

| table or view | grain |
| --- | --- |
| ``accepted`` (view) | one accepted recipient, with its call's columns |
| ``rejected`` (view) | one refused recipient, with its call's columns |
| ``bulk_call`` | one call that was answered with results |
| ``accepted_recipient``, ``rejected_recipient`` | what the views are made of |
| ``stored_answer`` | one idempotency key in use |
| ``webhook_event``, ``webhook_post`` | one event, one POST of several events (see `webhooks`) |
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from email_platform.errors import PartUnavailableError
from email_platform.local.provider_simulator.idempotency import StoredAnswer

DATABASE_NAME = "provider.sqlite3"

_COLUMNS = """account, idempotency_key, call_id, campaign, recipient, message_id, provider_message_id,
    planned_events, accepted_at_ms"""
_SELECT_ACCEPTED = """
select sequence, {columns}
from accepted
where sequence > ? and (? is null or campaign = ?)
order by sequence
limit ?
"""
# A bare column beside min() is that of the row with the minimum: https://www.sqlite.org/lang_select.html#bareagg
_SELECT_FIRST_OF_PLANS = """
select min(sequence), {columns}
from accepted
where true {and_campaign}
group by planned_events
order by planned_events
"""
_SELECT_FIRST_OF_REFUSALS = """
select recipient, message_id, code, message
from (select min(sequence), * from rejected where true {and_campaign} group by code)
order by code
"""
_SELECT_SUMMARY = """
select count(*), count(distinct message_id), count(distinct lower(recipient)), count(distinct call_sequence)
from accepted
where true {and_campaign}
"""
_SELECT_DUPLICATES = """
select message_id, count(*) as times
from accepted
where true {and_campaign}
group by message_id
having count(*) > 1
order by message_id
"""


def database_path(data_folder: Path) -> Path:
    """Return where the simulator of this data folder keeps its database."""
    return data_folder / DATABASE_NAME


@dataclass(frozen=True, slots=True)
class AcceptedRow:
    """One accepted recipient."""

    sequence: int
    account: str
    idempotency_key: str | None
    call_id: str
    campaign: str
    recipient: str
    message_id: str
    provider_message_id: str
    planned_events: str
    accepted_at: datetime


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """One recipient that was refused by itself, as the answer to its call had it."""

    recipient: str
    message_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class AcceptedSummary:
    """Counts of one campaign, or of everything."""

    accepted_rows: int
    distinct_message_ids: int
    distinct_addresses: int
    calls: int


class AcceptedLog:
    """Reads the log of a data folder, also while the simulator runs or after it was killed.

    Every method opens its own read-only connection, so that an instance can be kept, shared and dropped.
    """

    def __init__(self, data_folder: Path | str) -> None:
        self._path = database_path(Path(data_folder))

    def summary(self, campaign: str | None = None) -> AcceptedSummary:
        """Return the counts of a campaign; of everything without one."""
        [row] = self._query(_SELECT_SUMMARY, campaign=campaign)
        return AcceptedSummary(*row)

    def duplicates(self, campaign: str | None = None) -> dict[str, int]:
        """Return the message ids that were accepted more than once, with how many times."""
        return dict(self._query(_SELECT_DUPLICATES, campaign=campaign))

    def counts_by_campaign(self) -> dict[str, int]:
        """Return the accepted rows of every campaign."""
        return dict(self._query("select campaign, count(*) from accepted group by campaign"))

    def rejected_rows(self, campaign: str | None = None) -> int:
        """Return how many recipients were refused one by one."""
        [row] = self._query("select count(*) from rejected where true {and_campaign}", campaign=campaign)
        return int(row[0])

    def events_by_type(self, campaign: str | None = None) -> dict[str, int]:
        """Return how many events of each type the accepted rows call for, sent or still waiting."""
        counts: dict[str, int] = {}
        for plan, times in self._query(
            "select planned_events, count(*) from accepted where true {and_campaign} group by 1",
            campaign=campaign,
        ):
            for event in plan.split(","):
                kind = event.partition(":")[0]
                counts[kind] = counts.get(kind, 0) + times
        return counts

    def acknowledged_events(self, campaign: str | None = None) -> int:
        """Return how many events are in posts that the receiver has answered with a 2xx."""
        [row] = self._query(
            "select count(*) from webhook_event as e"
            " join webhook_post as p on p.post_sequence = e.post_sequence"
            " join accepted as a on a.sequence = e.accepted_sequence"
            " where p.delivered_at_ms is not null {and_campaign}",
            campaign=campaign,
        )
        return int(row[0])

    def lost_recipients(self, campaign: str | None = None, *, with_complaints: bool = True) -> set[str]:
        """Return the addresses, in lower case, that bounce hard or, where asked for, complain."""
        found = self._query(
            "select distinct lower(recipient) from accepted"
            " where (planned_events like 'bounced:hard%' or (? and planned_events like '%complained%')) {and_campaign}",
            with_complaints,
            campaign=campaign,
        )
        return {row[0] for row in found}

    def page(self, campaign: str | None = None, *, after_sequence: int = 0, limit: int = 1000) -> list[AcceptedRow]:
        """Return up to ``limit`` rows in order of sequence, starting behind ``after_sequence``."""
        # Not by the campaign's index: that would sort the whole campaign again for every page.
        return _rows(self._query(_SELECT_ACCEPTED, after_sequence, campaign, campaign, limit))

    def rows(self, campaign: str | None = None) -> Iterator[AcceptedRow]:
        """Iterate over all rows in order of sequence, in constant memory."""
        after_sequence = 0
        while page := self.page(campaign, after_sequence=after_sequence, limit=5000):
            yield from page
            after_sequence = page[-1].sequence

    def one_of_each_plan(self, campaign: str) -> list[AcceptedRow]:
        """Return the first recipient of each sequence of events that the campaign's recipients call for."""
        return _rows(self._query(_SELECT_FIRST_OF_PLANS, campaign=campaign))

    def one_of_each_refusal(self, campaign: str) -> list[RefusedRow]:
        """Return the first refused recipient of each code."""
        return [RefusedRow(*row) for row in self._query(_SELECT_FIRST_OF_REFUSALS, campaign=campaign)]

    def message_ids(self, campaign: str | None = None) -> set[str]:
        """Return the distinct message ids that were accepted."""
        found = self._query("select distinct message_id from accepted where true {and_campaign}", campaign=campaign)
        return {row[0] for row in found}

    def _query(self, statement: str, *parameters: Any, campaign: str | None = None) -> list[tuple[Any, ...]]:
        """Run a statement with its campaign condition, or without one.

        Two texts instead of one with ``? is null or``: only a plain equality uses the campaign's index.
        """
        if not self._path.exists():
            raise PartUnavailableError(f"no provider simulator has run on {self._path.parent}")
        condition, last = ("", ()) if campaign is None else ("and campaign = ?", (campaign,))
        connection = open_for_reading(self._path)
        try:
            text = statement.format(columns=_COLUMNS, and_campaign=condition)
            return connection.execute(text, (*parameters, *last)).fetchall()
        finally:
            connection.close()


def _rows(found: list[tuple[Any, ...]]) -> list[AcceptedRow]:
    return [replace(AcceptedRow(*row), accepted_at=datetime.fromtimestamp(row[9] / 1000, UTC)) for row in found]


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Return a connection that cannot write; the caller closes it."""
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )


def read_stored_answer(connection: sqlite3.Connection, account: str, key: str) -> StoredAnswer | None:
    """Return the answer stored for a key, however old."""
    row = connection.execute(
        "select fingerprint, body, stored_at_ms from stored_answer where account = ? and idempotency_key = ?",
        (account, key),
    ).fetchone()
    return None if row is None else StoredAnswer(*row)
