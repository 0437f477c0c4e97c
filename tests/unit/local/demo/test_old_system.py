"""The old system that is generated to practise on: the same each time, and its emails agree with its customers."""

from __future__ import annotations

from collections import Counter
from datetime import date
from typing import Any

import pytest

from email_platform.domain.addresses import is_valid_address, normalised_address
from email_platform.errors import CommandRefusedError, ConfigurationError
from email_platform.local.demo.old_system import OldSystem
from email_platform.local.demo.old_system_database import write_old_system

OLD = OldSystem(1_500, date(2025, 1, 1), 4)


def test_the_same_seed_makes_the_same_rows_and_another_one_makes_others() -> None:
    assert OldSystem(1_500, date(2025, 1, 1), 4).tables == OLD.tables
    assert OldSystem(1_500, date(2025, 1, 1), 4, seed=2).tables["email"] != OLD.tables["email"]


def test_emails_went_to_customers_who_were_there_and_had_not_opted_out() -> None:
    customers = {row["customer_no"]: row for row in OLD.tables["customer"]}
    campaigns = {row["id"]: row for row in OLD.tables["campaign"]}
    for email in OLD.tables["email"]:
        campaign = campaigns[email["campaign_id"]]
        assert email["user_id"] == campaign["user_id"]
        assert (email["sent_at"] is not None) == (email["status"] in ("sent", "bounced"))
        assert email["created_at"] <= email["updated_at"]
        if customer := customers.get(email["lead_id"]):
            assert customer["created_at"] <= campaign["sent_at"]
            assert all(
                customer[end] is None or customer[end] > campaign["sent_at"] for end in ("opted_out_at", "deleted_at")
            )


def test_it_has_what_a_careless_move_trips_over() -> None:
    customers, emails = OLD.tables["customer"], OLD.tables["email"]
    addresses = [normalised_address(row["mail"] or "") for row in customers]
    assert max(Counter(one for one in addresses if one).values()) > 1, "several customers have one address"
    assert {None, ""} <= {row["mail"] for row in customers}
    assert any(row["mail"] and row["mail"] != row["mail"].strip() for row in customers)
    assert any(row["mail"] and not row["mail"].isascii() for row in customers)
    assert any(one and not is_valid_address(one) for one in addresses)
    assert any(row["opted_out_at"] for row in customers)
    assert any(row["deleted_at"] for row in customers)
    assert {row["lead_id"] for row in emails} - {row["customer_no"] for row in customers}, "somebody is gone"
    now = {row["customer_no"]: row["mail"] for row in customers}
    assert any(row["lead_id"] in now and row["email"] != now[row["lead_id"]] for row in emails), "somebody moved"
    assert {row["status"] for row in emails} == {"sent", "bounced", "failed", "queued"}


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        ("postgresql://reader:x@other/shop", "same host"),
        ("postgresql://app:x@db/shop", "a user of its own"),
        ("postgresql://reader@db/shop", "a password"),
        ("mysql://reader:x@db/shop", "same host"),
    ],
)
def test_a_reader_of_another_database_or_without_a_user_of_its_own_is_refused(reader: str, reason: str) -> None:
    rows: dict[str, Any] = {}
    with pytest.raises(CommandRefusedError, match=reason):
        write_old_system("postgresql://app:x@db/shop", rows, reader, lambda *_: None)


def test_only_postgresql_and_mysql_are_written_to() -> None:
    with pytest.raises(ConfigurationError, match="postgresql://"):
        write_old_system("sqlite:///x", {}, None, lambda *_: None)
