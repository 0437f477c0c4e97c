"""Look-ups by key answer what a full scan answers: before, during and after the keys are filled."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest

from email_platform.adapters.clickhouse.erasure import WarehousePerson
from email_platform.adapters.clickhouse.key_index import CONDITIONS, KEYS, KeyKind
from email_platform.adapters.clickhouse.lookups import find_emails
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.domain.erasure import ErasedPerson, ErasureKey
from tests.integration.dbt_project.test_dbt_reports import NOON, Reports, delivery, reports
from tests.integration.dbt_project.test_legacy_reports import load_old, old_row

pytestmark = [pytest.mark.integration, pytest.mark.slow]
__all__ = ["reports"]

HOSTILE = (
    "o'brien@example.org",
    'back\\slash"quote@example.org',
    "100%_{wanted:String}@example.org",
    "tab\tline\nnul\0@example.org",
    "emoji😀@example.org",
    "STRASSE@example.org",
    "straße@example.org",
    "ÄRGER@example.org",
    "ärger@example.org",
    f"{'a' * 64}@{'.'.join(['b' * 63] * 4)}",
    "'; drop table delivery; --",
    " ",
)


def scanned(warehouse: ClickHouseWarehouse, by: KeyKind, wanted: int | str) -> list[tuple[Any, ...]]:
    """Campaign, lead and address of whatever has the key, by reading every row."""
    selects = [
        f"select campaign_id, lead_id, ifNull(email, '') from {table} final "
        f"where {'is_deleted = 0' if table == 'legacy_email' else '1'} and {CONDITIONS[by]}"
        for table, kinds in KEYS.items()
        if by in kinds
    ]
    return sorted(warehouse.query(f"{' union all '.join(selects)} settings use_skip_indexes = 0", {"wanted": wanted}))


def looked_up(warehouse: ClickHouseWarehouse, by: KeyKind, wanted: int | str) -> list[tuple[Any, ...]]:
    return sorted((one.campaign_id, one.lead_id, one.email) for one in find_emails(warehouse, by, wanted, 10_000))


def assert_same(warehouse: ClickHouseWarehouse, leads: Sequence[int], texts: Sequence[str]) -> int:
    """Returns how many emails were found."""
    ids = warehouse.query("select distinct toString(message_id) from delivery order by 1 limit 5", {})
    asked: list[tuple[KeyKind, int | str]] = [("lead", lead) for lead in leads]
    asked += [(by, text) for by in ("address", "provider_message_id") for text in texts]  # type: ignore[misc]
    asked += [("message_id", one) for (one,) in ids]
    found = 0
    for by, wanted in asked:
        answer = looked_up(warehouse, by, wanted)
        assert answer == scanned(warehouse, by, wanted), (by, wanted)
        found += len(answer)
    return found


def load_some(reports: Reports, campaign: int, chunk: int, number: random.Random, at_hours: int = 0) -> None:
    rows = [
        delivery(
            campaign,
            lead,
            number.choice(("accepted", "unknown", "rejected")),
            NOON + timedelta(hours=at_hours),
            email=number.choice(HOSTILE),
            provider_message_id=number.choice((*HOSTILE, "")),
        )
        for lead in range(1, 8)
    ]
    reports.load_deliveries(campaign, rows, chunk=chunk)


def test_look_ups_equal_a_full_scan_whatever_was_loaded_filled_and_loaded_again(reports: Reports) -> None:
    warehouse, number = reports.warehouse, random.Random(13)
    load_some(reports, 1, 0, number)
    load_old(reports, "old", [old_row(n, 900_001, n, "sent", email=text) for n, text in enumerate(HOSTILE, 1)])
    warehouse.client.command(
        "insert into exclusion (campaign_id, lead_id, email, reason, loaded_at) values "
        "(1, 50, null, 'invalid_address', now64(3)), (1, 51, 'O''Brien@Example.org', 'suppressed', now64(3))"
    )
    leads, texts = [1, 3, 7, 50, 51, 2**63 - 1, -1], [*HOSTILE, "nobody@example.org", "Emoji😀@EXAMPLE.org"]
    before = assert_same(warehouse, leads, texts)  # nothing is filled: the raw tables' filters
    assert before > 20
    assert warehouse.fill_keys() == 7 + len(HOSTILE) + 2
    assert assert_same(warehouse, leads, texts) == before
    load_some(reports, 2, 0, number)  # is found at once
    assert assert_same(warehouse, leads, texts) > before
    load_some(reports, 1, 1, number, at_hours=5)  # addresses and ids of filled rows change
    load_old(reports, "again", [old_row(1, 900_001, 1, "bounced", email="moved@example.org", version=10**18)])
    for _ in range(2):
        assert_same(warehouse, leads, [*texts, "moved@example.org"])
        warehouse.fill_keys()
    ((filled_to, now),) = warehouse.query("select max(filled_to), now64(3, 'UTC') from email_key_filled", {})
    assert now - filled_to < timedelta(minutes=12 if warehouse.on_cluster else 1)
    warehouse.client.command(f"optimize table {warehouse.local_table('email_key')} final")
    assert_same(warehouse, leads, [*texts, "moved@example.org"])
    keys = warehouse.query("select count() from email_key", {})
    assert warehouse.fill_keys() < 100
    warehouse.client.command(f"optimize table {warehouse.local_table('email_key')} final")
    assert warehouse.query("select count() from email_key", {}) == keys  # filled again, each key is one row


def test_an_email_is_found_while_others_load_and_fill(reports: Reports) -> None:
    failed: list[BaseException] = []
    done = threading.Event()

    def fill_on() -> None:
        own = ClickHouseWarehouse.from_settings(reports.settings)
        try:
            while not done.is_set():
                own.fill_keys()
        except BaseException as error:
            failed.append(error)
        finally:
            own.close()

    fillers = [threading.Thread(target=fill_on) for _ in range(2)]
    for thread in fillers:
        thread.start()
    try:
        for campaign in range(1, 16):
            reports.load_deliveries(campaign, [delivery(campaign, lead, "accepted", NOON) for lead in (1, 2)])
            found = [email.campaign_id for email in find_emails(reports.warehouse, "lead", 1, 100)]
            assert sorted(found) == list(range(1, campaign + 1))
            assert len(find_emails(reports.warehouse, "provider_message_id", f"p-{campaign}-2", 100)) == 1
    finally:
        done.set()
        for thread in fillers:
            thread.join()
    assert not failed


@pytest.mark.one_server
def test_an_insert_that_runs_holds_the_fill_back(reports: Reports) -> None:
    """Its rows have the time of its start and are seen at its end."""
    slow = (
        "insert into delivery (campaign_id, lead_id, email, status, loaded_at) "
        "select 5, number, 'slow@example.org', 'accepted', now64(3, 'UTC') from numbers(30) "
        "where sleepEachRow(0.25) = 0 settings max_block_size = 1, function_sleep_max_microseconds_per_block = 0"
    )
    own = ClickHouseWarehouse.from_settings(reports.settings)
    running = threading.Thread(target=own.client.command, args=(slow,))
    running.start()
    try:
        while not reports.warehouse.query("select 1 from system.processes where query_kind = 'Insert'", {}):
            assert running.is_alive()
        while running.is_alive():
            reports.warehouse.fill_keys()
    finally:
        running.join()
        own.close()
    assert len(find_emails(reports.warehouse, "address", "slow@example.org", 100)) == 30
    reports.warehouse.fill_keys()
    assert len(find_emails(reports.warehouse, "address", "slow@example.org", 100)) == 30


def test_after_an_erasure_the_pseudonym_finds_the_emails_and_no_key_of_the_person_is_left(reports: Reports) -> None:
    warehouse = reports.warehouse
    person = ErasedPerson("Erased.Person@Example.org", ErasureKey("k" * 40).pseudonym("erased.person@example.org"))
    for campaign in (1, 2):
        reports.load_deliveries(
            campaign,
            [
                delivery(campaign, 1, "accepted", NOON, email="Erased.Person@Example.org"),
                delivery(campaign, 2, "accepted", NOON, email="another@example.org"),
            ],
        )
        if campaign == 1:
            warehouse.fill_keys()  # the second campaign's rows are not filled yet
    WarehousePerson(lambda: warehouse).erase(person, dry_run=False)
    for _ in range(2):
        assert looked_up(warehouse, "address", "erased.person@example.org") == []
        assert looked_up(warehouse, "address", person.pseudonym) == [(1, 1, person.pseudonym), (2, 1, person.pseudonym)]
        assert_same(warehouse, [1, 2], ["another@example.org", person.pseudonym])
        of_the_person = "select count() from email_key where key_hash = toUInt32(cityHash64({address:String}))"
        assert warehouse.query(of_the_person, {"address": "erased.person@example.org"}) == [(0,)]
        warehouse.fill_keys()


def test_a_rebuild_from_nothing_forgets_the_keys_and_finds_what_is_loaded_again(reports: Reports) -> None:
    warehouse = reports.warehouse
    reports.load_deliveries(1, [delivery(1, 1, "accepted", NOON)])
    warehouse.fill_keys()
    warehouse.empty_tables()
    assert looked_up(warehouse, "lead", 1) == []
    assert warehouse.query("select count() from email_key", {}) == [(0,)]
    reports.load_deliveries(1, [delivery(1, 1, "accepted", NOON)], chunk=1)
    for _ in range(2):
        assert len(looked_up(warehouse, "lead", 1)) == 1
        warehouse.fill_keys()


def test_our_message_id_finds_the_email(reports: Reports) -> None:
    reports.load_deliveries(1, [delivery(1, 1, "accepted", NOON), delivery(1, 2, "accepted", NOON)])
    ((ours, lead),) = reports.warehouse.query("select message_id, lead_id from delivery where lead_id = 2", {})
    for _ in range(2):
        assert [one.lead_id for one in find_emails(reports.warehouse, "message_id", str(ours), 10)] == [lead]
        assert find_emails(reports.warehouse, "message_id", str(uuid5(UUID(int=0), "none")), 10) == []
        reports.warehouse.fill_keys()


def test_a_lead_with_more_emails_than_a_statement_can_name_is_found_whole_and_in_order(reports: Reports) -> None:
    client = reports.warehouse.client
    many = "select number, 77, 'often@example.org', 'accepted', toDateTime64(number, 3, 'UTC'), now64(3, 'UTC') "
    columns = "(campaign_id, lead_id, email, status, occurred_at, loaded_at)"
    client.command(f"insert into delivery {columns} {many} from numbers(1, 6000)")
    reports.warehouse.fill_keys()
    client.command(f"insert into delivery {columns} {many} from numbers(6001, 10)")
    for by, wanted in (("lead", 77), ("address", "Often@example.org")):
        found = find_emails(reports.warehouse, by, wanted, 100)  # type: ignore[arg-type]
        assert [email.campaign_id for email in found] == list(range(6010, 5910, -1))
