"""The views `email_of_…` answer what reading the whole mart `email` answers, and know what was loaded since."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from email_platform.adapters.clickhouse import reports_database
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
