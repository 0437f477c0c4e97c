"""The reports over old and new rows together: double sends, queued rows, changes at the source, deletions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from email_platform.domain.ports import StagedObject
from email_platform.runs.legacy_table import LEGACY_EMAIL_SCHEMA
from tests.integration.dbt_project.test_dbt_reports import HOSTILE, NOON, Reports, campaign, delivery, reports, user
from tests.integration.own_databases import change_in_place

pytestmark = [pytest.mark.integration, pytest.mark.slow]

__all__ = ["reports"]

OLD = datetime(2025, 1, 15, 12, 0, 0, 123456, tzinfo=UTC)


def old_row(
    row_id: int, campaign_id: int, lead_id: int, status: str, *, version: int = 1, **values: Any
) -> Mapping[str, Any]:
    was_sent = status in ("sent", "bounced")
    return {
        "id": row_id, "campaign_id": campaign_id, "user_id": 1, "lead_id": lead_id, "email": HOSTILE,
        "subject": HOSTILE, "status": status, "provider_message_id": f"old-{row_id}" if was_sent else None,
        "error": {"failed": HOSTILE, "bounced": "550 gone"}.get(status), "sent_at": OLD if was_sent else None,
        "created_at": OLD, "updated_at": OLD + timedelta(hours=row_id), "version": version, "is_deleted": 0, **values,
    }  # fmt: skip


def load_old(reports: Reports, name: str, rows: list[Mapping[str, Any]]) -> None:
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=LEGACY_EMAIL_SCHEMA), buffer)
    key = f"{reports.folder.name}/legacy/{name}.parquet"
    reports.store.put(key, buffer.getvalue())
    staged = StagedObject(key, "legacy_email", len(rows), sha256(buffer.getvalue()).hexdigest())
    assert reports.warehouse.load(staged) == len(rows)


def counted(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("eligible", "accepted", "rejected", "unknown", "not_attempted", "bounced_hard", "bounced_soft", "emails")
    return {name: row[name] for name in names if name in row}


def test_old_and_new_emails_are_in_the_same_reports_and_double_sends_are_reported(reports: Reports) -> None:
    reports.load_deliveries(1, [delivery(1, 1, "accepted", NOON), delivery(1, 2, "rejected", NOON)])
    reports.load_dimensions({"campaign": [campaign(1, eligible=2)], "app_user": [user(1)]}, NOON + timedelta(hours=3))
    load_old(reports, "january", [
        old_row(1, 900_001, 1, "sent"),
        old_row(2, 900_001, 1, "sent"),  # the same lead a second time
        old_row(3, 900_001, 2, "failed"),
        old_row(4, 900_001, 2, "sent"),
        old_row(5, 900_001, 3, "bounced"),
        old_row(6, 900_001, 4, "bounced", error="421 try later"),
        old_row(7, 900_001, 5, "queued"),
        old_row(8, 900_001, 6, "queued"),
        old_row(9, 900_001, 6, "sent"),
        old_row(10, 900_001, 7, "sending"),  # no word that we know
        old_row(11, 900_002, 1, "failed", error=None),
    ])  # fmt: skip
    for make in (reports.models, reports.build):
        make()
        new, first, second = reports.rows("campaign_summary", "campaign_id")
        assert counted(new) == {
            "eligible": 2, "accepted": 1, "rejected": 1, "unknown": 0, "not_attempted": 0, "bounced_hard": 0,
            "bounced_soft": 0, "emails": 1,
        }  # fmt: skip
        assert counted(first) == {
            "eligible": 7, "accepted": 5, "rejected": 0, "unknown": 1, "not_attempted": 1, "bounced_hard": 1,
            "bounced_soft": 1, "emails": 6,
        }  # fmt: skip
        assert (first["status"], first["name"], first["owner_name"]) == ("imported", HOSTILE, HOSTILE)
        assert (second["rejected"], second["emails"]) == (1, 0)
        by_day = {row["activity_date"]: row for row in reports.rows("sender_activity", "activity_date")}
        assert by_day[OLD.date()]["accepted"] + by_day[NOON.date()]["accepted"] == 6
        recipients = {row["lead_id"]: row for row in reports.rows("campaign_recipients", "campaign_id, lead_id")
                      if row["campaign_id"] == 900_001}  # fmt: skip
        assert sorted(recipients) == [1, 2, 3, 4, 6, 7], "a lead that was only queued got nothing"
        assert {lead: (row["status"], row["emails"]) for lead, row in recipients.items()} == {
            1: ("sent", 2), 2: ("sent", 1), 3: ("bounced_hard", 1), 4: ("bounced_soft", 1), 6: ("sent", 1),
            7: ("unknown", 0),
        }  # fmt: skip
        assert recipients[3]["error"] == "550 gone"
        emails = reports.rows("email", "campaign_id, toInt64OrZero(id)")
        assert [row["id"] for row in emails if row["campaign_id"] >= 900_001] == [str(one) for one in range(1, 12)]
        assert {row["status"] for row in emails} == {"sent", "failed", "bounced", "queued", "sending"}
        assert len(emails) == 2 + 11


def test_what_an_import_corrects_later_is_corrected_in_the_reports(reports: Reports) -> None:
    load_old(reports, "january", [old_row(one, 900_001, one, "sent") for one in range(1, 5)])
    load_old(reports, "other", [old_row(50, 900_002, 1, "sent")])
    reports.models()
    assert [counted(row)["accepted"] for row in reports.rows("campaign_summary", "campaign_id")] == [4, 1]

    load_old(reports, "january", [
        old_row(1, 900_001, 1, "bounced", version=2),
        old_row(2, 900_001, 2, "sent", version=2),
        old_row(3, 900_001, 3, "sent", version=2),
        old_row(6, 900_001, 3, "sent", version=2),
    ])  # fmt: skip
    load_old(reports, "january-removed", [old_row(4, 900_001, 4, "", version=2, is_deleted=1)])
    reports.models()
    first, second = reports.rows("campaign_summary", "campaign_id")
    assert (first["eligible"], first["accepted"], first["bounced_hard"], first["emails"]) == (3, 3, 1, 4)
    assert (second["accepted"], second["emails"]) == (1, 1)
    assert [row["lead_id"] for row in reports.rows("campaign_recipients", "campaign_id, lead_id")] == [1, 2, 3, 1]
    assert sorted(row["id"] for row in reports.rows("email", "id")) == ["1", "2", "3", "50", "6"]
    history = reports.rows("lead_history", "campaign_id, lead_id")
    assert [(row["campaign_id"], row["lead_id"]) for row in history] == [(900_001, one) for one in (1, 2, 3)] + [
        (900_002, 1)
    ]

    load_old(reports, "other-removed", [old_row(50, 900_002, 1, "", version=2, is_deleted=1)])
    reports.build()
    assert {row["campaign_id"] for row in reports.rows("lead_history", "1")} == {900_001}
    assert {row["campaign_id"] for row in reports.rows("hourly_throughput", "1")} == {900_001}, "nothing of it is left"
    [domain] = reports.rows("domain_deliverability", "1")
    assert (domain["accepted"], domain["emails"], domain["bounced_hard"]) == (3, 4, 1)
    [reason] = reports.rows("bounce_reasons", "1")
    assert (reason["provider"], reason["reason_code"], reason["recipients"]) == ("old_system", "550", 1)


def test_old_campaigns_can_be_computed_again_from_rows_of_which_nothing_is_new(reports: Reports) -> None:
    load_old(reports, "january", [old_row(one, 900_000 + one, 1, "sent") for one in (1, 2)])
    reports.models()
    change_in_place(reports.warehouse, "legacy_email", "update status = 'failed', subject = 'Mended' where 1")
    reports.build("--vars", '{"recompute_campaigns": [900001]}')
    mended, left = reports.rows("campaign_summary", "campaign_id")
    assert (mended["name"], mended["accepted"], mended["rejected"]) == ("Mended", 0, 1)
    assert (left["accepted"], left["rejected"]) == (1, 0)
