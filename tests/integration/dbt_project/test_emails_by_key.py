"""The views `email_of_…` answer what reading the whole mart `email` answers, and know what was loaded since."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from email_platform.adapters.clickhouse import reports_database
from email_platform.adapters.clickhouse.lookups import find_emails
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from tests.integration.adapters.clickhouse.test_key_index import HOSTILE, load_some
from tests.integration.dbt_project.test_dbt_reports import NOON, Reports, about, delivery, event, reports
from tests.integration.dbt_project.test_legacy_reports import load_old, old_row

pytestmark = [pytest.mark.integration, pytest.mark.slow]
__all__ = ["reports"]

# The view, its parameter, its type, and the same in the mart.
VIEWS: Mapping[str, tuple[str, str, str]] = {
    "email_of_lead": ("lead", "Int64", "lead_id = {wanted:Int64}"),
    "email_of_address": ("address", "String", "lower(email) = lower({wanted:String})"),
    "email_of_provider_message": ("provider_message_id", "String", "provider_message_id = {wanted:String}"),
    "email_of_message": ("message_id", "UUID", "id = toString({wanted:UUID}) and campaign_id < 900000"),
}

# As if what is filled had been recorded a minute ago.
AGED = (
    "insert into email_key_filled select now64(3, 'UTC') - toIntervalSecond(60), max(filled_to) from email_key_filled"
)


def found(reports: Reports, view: str, wanted: object) -> list[tuple[Any, ...]]:
    """Every column that does not say when something was learnt."""
    database = reports_database(reports.settings.clickhouse_url.get_secret_value())
    name, kind, _ = VIEWS[view]
    statement = f"select * except (updated_at, as_of) from {database}.{view}({name} = {{wanted:{kind}}}) order by all"
    return reports.warehouse.query(statement, {"wanted": wanted})


def in_the_mart(reports: Reports, view: str, wanted: object) -> list[tuple[Any, ...]]:
    database = reports_database(reports.settings.clickhouse_url.get_secret_value())
    statement = f"select * except (updated_at, as_of) from {database}.email where {VIEWS[view][2]} order by all"
    return reports.warehouse.query(statement, {"wanted": wanted})


def questions(reports: Reports) -> list[tuple[str, object]]:
    ids = reports.warehouse.query("select distinct toString(message_id) from delivery order by 1", {})
    texts = (*HOSTILE, "nobody@example.org", "Emoji😀@EXAMPLE.org", "moved@example.org")
    return [
        *(("email_of_lead", lead) for lead in (1, 3, 7, 12, 2**63 - 1, -1)),
        *((view, text) for view in ("email_of_address", "email_of_provider_message") for text in texts),
        *(("email_of_message", one) for (one,) in ids),
    ]


def test_each_view_answers_what_the_mart_answers_and_knows_what_the_mart_does_not_yet(reports: Reports) -> None:
    number = random.Random(17)
    load_some(reports, 1, 0, number)
    load_old(reports, "old", [old_row(n, 900_001, n, "sent", email=text) for n, text in enumerate(HOSTILE, 1)])
    reports.load_deliveries(3, [delivery(3, 3, "unknown", NOON), delivery(3, 7, "accepted", NOON)])
    reports.load_events(event("bounced", "hard", key="b", **about(3, 7)))
    reports.models()
    for fill in (False, True):  # keys in the raw tables' filters, then in the table of keys
        if fill:
            reports.warehouse.fill_keys()
            reports.warehouse.client.command(AGED)
        rows = 0
        for view, wanted in questions(reports):
            answer = found(reports, view, wanted)
            assert answer == in_the_mart(reports, view, wanted), (view, wanted)
            rows += len(answer)
        assert rows > 40

    load_some(reports, 2, 0, number)
    reports.load_deliveries(3, [delivery(3, 3, "accepted", NOON + timedelta(hours=1), email="moved@example.org")])
    load_old(reports, "more", [old_row(99, 900_001, 99, "failed", email="moved@example.org")])
    now = {(row[1], row[3]): row[6] for row in found(reports, "email_of_address", "MOVED@example.org")}
    assert now == {(3, 3): "sent", (900_001, 99): "failed"}
    assert [row[6] for row in found(reports, "email_of_lead", 7) if row[1] == 3] == ["bounced"]
    before_refresh = [found(reports, view, wanted) for view, wanted in questions(reports)]
    reports.models()
    assert [in_the_mart(reports, view, wanted) for view, wanted in questions(reports)] == before_refresh


@contextmanager
def slow_to_say_what_is_filled(warehouse: ClickHouseWarehouse) -> Iterator[None]:
    """Whoever asks up to when keys are filled waits a second, then gets the answer of that moment."""
    warehouse.client.command("rename table email_key_filled to email_key_filled_itself")
    warehouse.client.command(
        "create view email_key_filled as select toDateTime64('2000-01-01', 3, 'UTC') + (select sum(sleep(1))) as "
        "recorded_at, recorded_at as filled_to union all select recorded_at, filled_to from email_key_filled_itself"
    )
    try:
        yield
    finally:
        warehouse.client.command("drop view email_key_filled")
        warehouse.client.command("rename table email_key_filled_itself to email_key_filled")


class _Filling(ClickHouseWarehouse):
    """Fills the table that stands behind the slow one."""

    def query(self, statement: str, parameters: Mapping[str, Any]) -> list[Any]:
        return super().query(statement.replace(" email_key_filled", " email_key_filled_itself"), parameters)

    def command(self, statement: str, *of_it: Any, **more: Any) -> None:
        super().command(statement.replace(" email_key_filled", " email_key_filled_itself"), *of_it, **more)


def test_keys_that_are_filled_while_a_question_is_analysed_hide_no_email(reports: Reports) -> None:
    reports.load_deliveries(1, [delivery(1, 1, "accepted", NOON)])
    reports.models()
    [(message,)] = reports.warehouse.query("select toString(message_id) from delivery", {})
    questions: Mapping[str, Callable[[], Sequence[object]]] = {
        "the view, by lead": lambda: found(reports, "email_of_lead", 1),
        "the view, by message": lambda: found(reports, "email_of_message", message),
        "the function, by lead": lambda: find_emails(reports.warehouse, "lead", 1, 9),
        "the function, by message": lambda: find_emails(reports.warehouse, "message_id", message, 9),
    }
    filler = _Filling.from_settings(reports.settings)

    def fill_soon() -> None:
        time.sleep(0.2)
        filler.fill_keys()

    with slow_to_say_what_is_filled(reports.warehouse):
        time.sleep(6)  # keys are filled of what is older than clocks may differ
        for name, ask in questions.items():
            for table in ("email_key", "email_key_filled_itself"):
                reports.warehouse.client.command(f"truncate table {table}")
            thread = threading.Thread(target=fill_soon)
            thread.start()
            answer = ask()
            thread.join()
            assert len(answer) == 1, name
            assert reports.warehouse.query("select count() > 0 from email_key", {}) == [(True,)]
    filler.close()
