"""Somebody is erased: nothing that the platform keeps names them, and every count is as it was."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import String, insert, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from typer.testing import CliRunner, Result

from email_platform.adapters.assembly import open_erasures, open_events
from email_platform.adapters.clickhouse.address import reports_database_beside
from email_platform.adapters.clickhouse.erasure import WarehousePerson
from email_platform.adapters.postgres.erased import erasure_key
from email_platform.adapters.postgres.erasures import NAMING_COLUMNS, NOT_SEARCHED
from email_platform.adapters.postgres.events import PostgresSuppressions
from email_platform.adapters.postgres.lead_import import import_leads
from email_platform.adapters.postgres.ledger_archive import PostgresLedgerArchive
from email_platform.adapters.postgres.tables import (
    alert,
    api_key,
    api_request,
    campaign,
    erasure,
    metadata,
    segment,
    send_call,
)
from email_platform.adapters.postgres.work_lease import OLD_ROWS_WORK, hold_work_lease
from email_platform.audience.lead_file import ImportedLead
from email_platform.cli.app import app
from email_platform.domain.storage_layout import event_inbox_key, report_page_key
from email_platform.errors import CommandRefusedError, ConfigurationError
from email_platform.events.inbox import replay_archive, replay_quarantine, stage_inbox
from email_platform.events.received import ReceivedBody, to_parquet
from email_platform.runs.erase import carry_on, erase, look_only
from email_platform.runs.erasure_parts import EraseParts, Erasure
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.load import account, load_staged
from email_platform.runs.rebuild import rebuild_warehouse
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, seed_leads
from tests.integration.own_world import OwnWorld, own_world

pytestmark = [pytest.mark.integration, pytest.mark.slow]

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class World(OwnWorld):
    """A database, a bucket and a warehouse of their own."""

    def erasing(self, on_step: Callable[[str], None] = lambda _: None) -> EraseParts:
        person = WarehousePerson(lambda: self.warehouse)
        return EraseParts(self.parts, open_erasures(self.settings, self.engine), person, on_step)

    def frozen(self, address: str, others: int = 119, **values: Any) -> int:
        """A campaign in two chunks whose audience is frozen; the person is its 51st lead."""
        rows = [{**one, "attributes": {"friend": "nobody"}} for one in numbered(others)]
        rows.insert(50, {"email": address, "first_name": "Zaphira", "attributes": {"nickname": "Zaphi"}})
        rows.append({"email": None, "attributes": {}})
        campaign_id = queue_campaign(self.engine, in_city(seed_leads(self.engine, rows)), **values)
        freeze_audience(self.parts, campaign_id)
        return campaign_id

    def send(self, campaign_id: int) -> None:
        for index in range(2):
            send_chunk(self.parts, campaign_id, index, holder=f"erase-{next(_numbers)}")
        finish_sending(self.parts, campaign_id)
        load_staged(self.parts.register, self.warehouse)

    def take_in(self, *bodies: ReceivedBody) -> None:
        """Bodies of events, through the inbox into the warehouse."""
        key = event_inbox_key(bodies[0].received_at.date(), f"erase-{next(_numbers)}", 0)
        self.store.put(key, to_parquet(bodies))
        self.pass_over_events()

    def pass_over_events(self) -> None:
        with open_events(self.settings) as events:
            stage_inbox(events.store, events.intake, events.clock, policy=events.policy)
        load_staged(self.parts.register, self.warehouse)

    def holds(self, campaign_id: int) -> dict[str, tuple[int, int]]:
        lines = account(self.parts, self.warehouse, campaign_id)
        assert all(line.holds for line in lines), lines
        return {line.name: (line.left[1], line.right[1]) for line in lines}


@pytest.fixture(scope="module")
def world(stack: Settings) -> Iterator[World]:
    with own_world(stack, "erase") as own:
        yield World.of(own)


def new_address() -> str:
    return f"Zaphod+news{next(_numbers)}@Beeblebrox.example"


def bounce(address: str, campaign_id: int, message: str, **more: Any) -> ReceivedBody:
    """A batch of two events, of the person and of somebody else, as the simulator posts them."""
    events = [
        {
            "event_id": f"{message}-{index}",
            "type": "bounced",
            "subtype": "hard",
            "campaign": str(campaign_id),
            "provider_message_id": f"{message}-{index}",
            "recipient": recipient,
            "occurred_at": "2026-11-20T10:00:00Z",
            "detail": f"550 <{recipient}>: no such user{more or ''}",
        }
        for index, recipient in enumerate((address, "else@example.com"))
    ]
    return ReceivedBody("simulator", "default", datetime.now(UTC), "", json.dumps({"events": events}).encode())


def test_an_import_of_old_rows_that_may_have_read_the_person_before_is_waited_for(world: World) -> None:
    address = new_address()
    with hold_work_lease(world.engine, OLD_ROWS_WORK):
        waiting = erase(world.erasing(), address)
    assert waiting.finished_at is None
    assert any("old rows are being imported" in reason for reason in waiting.waits_for)
    assert erase(world.erasing(), address).finished_at is not None


def everything_that_is_kept(world: World) -> Iterator[tuple[str, str]]:
    """Every table, object and warehouse table, by name and as text."""
    with world.engine.connect() as connection:
        for table in metadata.sorted_tables:
            for row in connection.execute(text(f"select t::text from {table.name} as t")).scalars():
                yield table.name, row
    for info in world.store.list(""):
        body = world.store.get(info.key)
        yield info.key, info.key
        if not info.key.endswith(".parquet"):
            yield info.key, body.decode("utf-8", "replace")
            continue
        parquet = pq.ParquetFile(BytesIO(body))
        yield info.key, parquet.metadata.to_dict().__repr__()  # statistics of columns hold values
        for row in parquet.read().to_pylist():
            yield info.key, repr(row)
    for database, name in world.warehouse.query(
        "select database, name from system.tables where database in {databases:Array(String)} "
        "and engine like '%MergeTree'",
        {"databases": [world.warehouse.database, reports_database_beside(world.warehouse.database)]},
    ):
        for row in world.warehouse.query(f"select * from {database}.{name}", {}):
            yield name.removesuffix("_local"), repr(row)
    for (row,) in world.warehouse.query("select command from system.mutations", {}):
        yield "system.mutations", row


def places_naming(world: World, address: str) -> set[str]:
    """Where the address stands, in any case, plainly or escaped; a key without its ids and days."""
    plain = address.lower()
    escaped = plain.replace("+", "%2b").replace("@", "%40")
    return {
        re.sub(r"[0-9a-f-]{8,}|\d+", "#", name)
        for name, kept in everything_that_is_kept(world)
        if plain in kept.lower() or escaped in kept.lower() or "zaphira" in kept.lower()
    }


def test_every_text_column_is_searched_or_says_why_not() -> None:
    searched = {f"{table.name}.{column}" for table, columns in NAMING_COLUMNS.items() for column in columns}
    texts = {
        f"{table.name}.{column.name}"
        for table in metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, (String, JSONB))
    }
    explained = {name for name in texts if name in NOT_SEARCHED or name.partition(".")[0] in NOT_SEARCHED}
    assert searched | explained == texts
    assert not searched & explained
    assert all(name in texts or name in metadata.tables for name in NOT_SEARCHED)


def test_python_and_postgresql_give_one_pseudonym(world: World) -> None:
    key = erasure_key(world.settings)
    assert key is not None
    spellings = ["Ann@Example.com", "\u00a0ann@B\u00dcCHER.example\t", "a'b+c@example.com", "\u00e4@example.com", ""]
    statement = text("select erased_address(one, :inner, :outer) from unnest(cast(:all as text[])) as given (one)")
    with world.engine.connect() as connection:
        found = connection.execute(
            statement, {"inner": key.inner_pad, "outer": key.outer_pad, "all": spellings}
        ).scalars()
        assert list(found) == [key.pseudonym(one) for one in spellings]


def seeded(world: World, address: str) -> int:
    """The person in every kind of place; returns the campaign."""
    campaign_id = world.frozen(address)
    world.send(campaign_id)
    message = f"m{next(_numbers)}"
    world.take_in(bounce(address, campaign_id, message))
    unreadable = ReceivedBody("simulator", "default", datetime.now(UTC), "", f'[{{"to": "{address}"}}'.encode())
    world.take_in(unreadable)
    world.store.put(report_page_key(campaign_id), f"<p>{address}</p>".encode())
    # As a mart has it: the reports' tables are the platform's too, but no migration makes them.
    reports = reports_database_beside(world.warehouse.database)
    columns = "id Int64, email LowCardinality(Nullable(String)), error Nullable(String)"
    rows = f"(1, '{address}', 'no <{address}>'), (2, null, null), (3, 'b@x.com', 'else')"
    for statement in (
        f"create database if not exists {reports}",
        f"create table if not exists {reports}.mart ({columns}) engine = MergeTree order by id",
        f"insert into {reports}.mart values {rows}",
    ):
        world.warehouse.client.command(statement)
    with world.engine.begin() as connection:
        connection.execute(update(campaign).where(campaign.c.id == campaign_id).values(status_reason=f"no <{address}>"))
        now = datetime.now(UTC)
        words = dict.fromkeys(("happened", "meaning", "command"), f"it names {address}")
        connection.execute(
            insert(alert).values(
                kind="test",
                subject=message,
                occasion="once",
                details={"a": [address]},
                raised_at=now,
                seen_at=now,
                **words,
            )
        )
        condition = {"all": [{"field": "email", "op": "eq", "value": address}]}
        connection.execute(insert(segment).values(name=message, condition=condition))
        key_id = connection.execute(
            insert(api_key)
            .values(name="k", prefix="p", key_sha256=message.encode(), role="reader")
            .returning(api_key.c.id)
        ).scalar_one()
        connection.execute(
            insert(api_request).values(
                key_id=key_id, idempotency_key=address, request_sha256=b"", status=200, body={"address": address}
            )
        )
        call = select(send_call.c.call_index).where(
            send_call.c.campaign_id == campaign_id, send_call.c.chunk_index == 0
        )
        connection.execute(
            update(send_call)
            .where(send_call.c.campaign_id == campaign_id, send_call.c.chunk_index == 0)
            .where(send_call.c.call_index == call.limit(1).scalar_subquery())
            .values(error=f"550 {address} unknown")
        )
    return campaign_id


PLACES = {
    "lead", "suppression", "segment", "campaign", "alert", "api_request", "send_call",
    "manifests/campaign=#/#/eligible.parquet", "deliveries/campaign=#/chunk-#.parquet",
    "events/raw/#/#.parquet", "events/normalised/#/#.parquet", "events/quarantine/#/#.parquet",
    "reports/campaign=#.html", "delivery", "event", "mart",
}  # fmt: skip


def test_after_a_real_campaign_nothing_names_the_person_and_every_count_is_as_it_was(world: World) -> None:
    address = new_address()
    campaign_id = seeded(world, address)
    before = places_naming(world, address)
    assert before >= PLACES, PLACES - before
    counts = world.holds(campaign_id)
    feedback = world.warehouse.feedback_counts([campaign_id])
    totals = world.parts.ledger.totals(campaign_id)

    planned = look_only(world.erasing(), address)
    assert places_naming(world, address) == before, "a dry run changes nothing"
    done = erase(world.erasing(), f"  {address.upper()} ")
    assert (done.finished_at is not None, done.address, done.waits_for) == (True, None, ())
    assert places_naming(world, address) == set()
    assert planned.found.keys() <= done.removed.keys()
    assert planned.found.keys() >= {"leads", "suppressions", "manifests", "objects", "calls", "rows of alert"}
    assert done.removed["leads"] == 1

    load_staged(world.parts.register, world.warehouse)
    assert places_naming(world, address) == set()
    reports = reports_database_beside(world.warehouse.database)
    others = world.warehouse.query(f"select email, error from {reports}.mart where id > 1 order by id", {})
    assert [tuple(row) for row in others] == [(None, None), ("b@x.com", "else")]
    assert world.holds(campaign_id) == counts
    assert world.parts.ledger.totals(campaign_id) == totals
    assert world.warehouse.feedback_counts([campaign_id]) == feedback
    for staged in world.parts.register.of_campaign(campaign_id):
        assert world.warehouse.holds(staged), staged.key


def test_the_person_stays_suppressed_in_every_spelling_and_no_lead_again(world: World) -> None:
    address = f"gone{next(_numbers)}@B\u00fccher.example"
    erase(world.erasing(), address)
    key = erasure_key(world.settings)
    suppressions = PostgresSuppressions(world.engine, key)
    spellings = [
        address,
        address.upper(),
        f"\t{address.lower()}\u200b",
        address.replace("B\u00fccher", "xn--bcher-kva"),
    ]
    assert suppressions.suppressed(1, [1, 2, 3, 4, 5], [*spellings, "nobody@example.com"]) == dict.fromkeys(
        (1, 2, 3, 4), "erased"
    )
    assert [one.reason for one in suppressions.of_address(address.lower())] == ["manual"]
    with pytest.raises(CommandRefusedError, match="erased at the person's request"):
        suppressions.remove(address, None)

    mailable = spellings[3]
    counts = import_leads(
        world.engine,
        [
            ImportedLead(7, {"email": mailable}, "{}"),
            ImportedLead(8, {"email": f"kept{next(_numbers)}@example.com"}, "{}"),
        ],
        key,
    )
    assert (counts.added, counts.erased) == (1, (7,))
    # An application writes the row by itself: it is left out, and not named.
    campaign_id = world.frozen(mailable)
    manifest = world.parts.manifests.find(campaign_id)
    assert manifest is not None
    assert (manifest.eligible_rows, manifest.excluded_by_reason["suppressed"]) == (119, 1)
    assert "manifests/campaign=#/#/excluded.parquet" not in places_naming(world, mailable)
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_ERASURE_KEY"):
        PostgresSuppressions(world.engine, None).suppressed(1, [1], ["else@example.com"])
    erase(world.erasing(), address)


def test_a_late_event_a_replay_a_rebuild_and_a_restored_ledger_bring_nobody_back(world: World) -> None:
    address = new_address()
    campaign_id = seeded(world, address)
    ledgers = PostgresLedgerArchive(world.engine, world.store)
    with world.engine.begin() as connection:
        ended_at = datetime(2026, 1, 1, tzinfo=UTC)
        connection.execute(update(campaign).where(campaign.c.id == campaign_id).values(finished_at=ended_at))
    assert ledgers.archive(campaign_id, datetime.now(UTC)) is not None
    ledgers.remove(campaign_id)
    assert "ledgers/campaign=#.parquet" in places_naming(world, address)
    erase(world.erasing(), address)
    assert places_naming(world, address) == set()
    counts = world.warehouse.fingerprints()["event"].rows

    late = f"late{next(_numbers)}"
    world.take_in(bounce(address, campaign_id, late, ip="203.0.113.9"))
    assert places_naming(world, address) == set()
    assert world.warehouse.fingerprints()["event"].rows == counts + 2, "it counts all the same"
    key = erasure_key(world.settings)
    assert key is not None
    ((details,),) = world.warehouse.query(
        "select details from event where recipient = {recipient:String} and event_id = {event_id:String}",
        {"recipient": key.pseudonym(address), "event_id": f"{late}-0"},
    )
    assert details == "{}"

    with open_events(world.settings) as events:
        today = datetime.now(UTC).date()
        replay_archive(events.store, events.clock, today, today, events.intake)
        replay_quarantine(events.store, events.intake, events.clock)
    world.pass_over_events()
    assert world.warehouse.fingerprints()["event"].rows == counts + 2, "read again, and no event more"
    ledgers.restore(campaign_id)
    rebuilt = rebuild_warehouse(
        world.store, world.parts.register, world.parts.manifests, world.warehouse, empty_first=True
    )
    assert rebuilt.is_complete
    assert places_naming(world, address) == set()
    world.holds(campaign_id)


def test_while_a_campaign_is_sending_the_person_is_left_out_and_a_call_in_flight_is_finished_first(
    world: World,
) -> None:
    address = new_address()
    early = world.frozen(address)
    done = erase(world.erasing(), address)
    assert done.finished_at is not None
    world.send(early)
    holding = world.holds(early)
    assert holding["accepted recipients"] == (119, 119)
    assert holding["rejected recipients"] == (1, 1)
    assert places_naming(world, address) == set()

    address = new_address()
    in_flight = world.frozen(address)
    world.send(in_flight)
    of_first_chunk = (send_call.c.campaign_id == in_flight, send_call.c.chunk_index == 0)
    with world.engine.begin() as connection:
        connection.execute(update(send_call).where(*of_first_chunk).values(state="unknown"))
    waiting = erase(world.erasing(), address)
    assert waiting.finished_at is None
    assert f"campaign {in_flight}: a call with the person" in waiting.waits_for[0]
    assert "lead" not in places_naming(world, address)
    with world.engine.begin() as connection:
        connection.execute(update(send_call).where(*of_first_chunk).values(state="accepted"))
    (request,) = open_erasures(world.settings, world.engine).unfinished()
    assert carry_on(world.erasing(), request).finished_at is not None
    load_staged(world.parts.register, world.warehouse)
    assert places_naming(world, address) == set()
    world.holds(in_flight)


class DiedError(BaseException):
    """Stands for a kill: nothing of the process goes on."""


def test_killed_after_any_step_it_is_gone_on_with_and_ends_the_same(world: World) -> None:
    address = new_address()
    campaign_id = seeded(world, address)
    counts = world.holds(campaign_id)
    died_at: set[str] = set()

    def die(step: str) -> None:
        if step not in died_at:
            died_at.add(step)
            raise DiedError

    done: Erasure | None = None
    while done is None:  # each process dies after a thing that no process before it died after
        with suppress(DiedError):
            done = erase(world.erasing(die), address)
    assert len(died_at) > 12, died_at
    assert done.finished_at is not None
    events = world.warehouse.fingerprints()["event"].rows
    load_staged(world.parts.register, world.warehouse)
    assert places_naming(world, address) == set()
    assert world.holds(campaign_id) == counts
    assert world.warehouse.fingerprints()["event"].rows == events
    for staged in world.parts.register.of_campaign(campaign_id):
        assert world.warehouse.holds(staged), staged.key
    with world.engine.connect() as connection:
        assert connection.execute(select(erasure.c.rewriting).where(erasure.c.address.is_not(None))).all() == []


def test_the_command_says_what_it_would_remove_and_what_it_removed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = new_address()
    seed_leads(world.engine, [{"email": address}])
    for name, value in world.settings.variables().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["lead", "erase", *arguments])

    planned = json.loads(run(address, "--dry-run", "--json").output)
    assert (planned["found"], planned["dry_run"]) == ({"leads": 1}, True)
    done = run(address)
    assert (done.exit_code, "removed 1 leads" in done.output, address.lower() in done.output.lower()) == (
        0,
        True,
        False,
    )
    assert run("no address").exit_code == 1
    assert run().exit_code == 2
    assert run("--unfinished").output == "no request is unfinished\n"
