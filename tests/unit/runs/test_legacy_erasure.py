"""Old rows of people who were erased, without engines: which cells change, and by how much the checksum does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from email_platform.domain.erasure import ErasureKey
from email_platform.runs.legacy_erasure import row_checksums, without_erased
from email_platform.runs.legacy_table import SOURCE_SCHEMA

KEY = ErasureKey("a key of tests")
ANN = KEY.pseudonym("ann@example.com")
NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)


class Erased:
    """Ann was erased, and somebody with an address that has nothing of an address's letters."""

    def is_empty(self) -> bool:
        return False

    def pseudonyms(self, addresses: Collection[str]) -> Mapping[str, str]:
        known = {ANN, KEY.pseudonym("\u5b89@\u4f8b")}
        return {each: KEY.pseudonym(each) for each in addresses if KEY.pseudonym(each) in known}


def rows(*cells: dict[str, Any]) -> pa.Table:
    plain = {"campaign_id": 1, "user_id": 1, "lead_id": 1, "email": "bob@example.com", "subject": "s",
             "status": "sent", "created_at": NOON, "updated_at": NOON}  # fmt: skip
    return pa.Table.from_pylist([{**plain, "id": number, **row} for number, row in enumerate(cells)], SOURCE_SCHEMA)


def test_only_the_cells_that_name_the_person_become_the_pseudonym_and_every_row_stays() -> None:
    table = rows(
        {"email": " Ann@EXAMPLE.com\u00a0"},
        {},
        {"email": "joann@example.com", "error": "550 <ann@example.com>: no such user"},
        {"email": "ann@example.com.au", "error": None},
        {"subject": "to ann%40example.com", "provider_message_id": "x-ann@example.org"},
        {"email": "\u5b89@\u4f8b"},
    )
    without = without_erased(table, Erased())
    assert without.rows == 4
    assert without.table["email"].to_pylist() == [
        ANN, "bob@example.com", "joann@example.com", "ann@example.com.au", "bob@example.com",
        KEY.pseudonym("\u5b89@\u4f8b"),
    ]  # fmt: skip
    assert without.table["error"].to_pylist() == [None, None, f"550 <{ANN}>: no such user", None, None, None]
    assert without.table["subject"].to_pylist()[4] == f"to {ANN}"
    others = [name for name in SOURCE_SCHEMA.names if name not in ("email", "error", "subject")]
    assert without.table.select(others).equals(table.select(others))
    assert without.table.schema == SOURCE_SCHEMA


def test_the_fingerprint_differs_by_exactly_the_rows_that_changed() -> None:
    table = rows({"email": "ann@example.com"}, {}, {"error": "ann@example.com is full", "sent_at": NOON})
    without = without_erased(table, Erased())
    assert without.difference.rows == 0
    assert sum(row_checksums(table)) + (without.difference.checksum or 0) == sum(row_checksums(without.table))
    assert row_checksums(table)[1] == row_checksums(without.table)[1]


def test_where_nobody_is_named_the_rows_are_the_same() -> None:
    table = rows({}, {"email": "", "error": "nobody"})
    without = without_erased(table, Erased())
    assert (without.rows, without.difference.checksum) == (0, 0)
    assert without.table.equals(table)
    assert without_erased(table.slice(0, 0), Erased()).rows == 0
