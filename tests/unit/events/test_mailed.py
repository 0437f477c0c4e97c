"""Whom we mailed is found in the frozen manifest, whatever became of the lead, and without reading all of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from email_platform.domain.campaigns import CampaignContent, Sender
from email_platform.domain.identity import message_id
from email_platform.domain.manifest import ELIGIBLE_SCHEMA, Manifest
from email_platform.domain.storage_layout import eligible_key, manifest_prefix
from email_platform.errors import PartUnavailableError
from email_platform.events.mailed import Mailed, ManifestAddresses
from tests.fakes.stores import InMemoryObjectStore

CAMPAIGN = 7
ROWS = 1000
FIRST = UUID("00000000-0000-0000-0000-000000000001")
SECOND = UUID("00000000-0000-0000-0000-000000000002")


class Counted(io.BytesIO):
    """Counts what is read of it."""

    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.read_bytes += len(found)
        return found


class Store(InMemoryObjectStore):
    """Counts what is read, or is away."""

    def __init__(self) -> None:
        super().__init__()
        self.read_bytes = 0
        self.is_down = False

    @contextmanager
    def reader(self, key: str) -> Iterator[IO[bytes]]:
        if self.is_down:
            raise PartUnavailableError("S3 does not answer")
        with Counted(self.get(key)) as file:
            yield file
            self.read_bytes += file.read_bytes


def lead_id(position: int) -> int:
    return 10 + 3 * position


def freeze(
    store: InMemoryObjectStore, manifest_id: UUID = FIRST, rows: int = ROWS, domain: str = "example.com"
) -> Manifest:
    prefix = manifest_prefix(CAMPAIGN, manifest_id)
    empty = [None] * rows
    columns = {
        "position": list(range(rows)),
        "lead_id": [lead_id(position) for position in range(rows)],
        "email": [f"Lead{position}@{domain}" for position in range(rows)],
        "attributes": ["{}" + " " * 5000] * rows,
    }
    table = pa.table(
        [pa.array(columns.get(field.name, empty), field.type) for field in ELIGIBLE_SCHEMA], schema=ELIGIBLE_SCHEMA
    )
    with store.writer(eligible_key(prefix)) as file:
        pq.write_table(table, file, compression="none", use_dictionary=False, row_group_size=100)
    sender = Sender(1, 1, "news@example.com", "News", None, "simulator", "default")
    return Manifest(
        campaign_id=CAMPAIGN,
        manifest_id=manifest_id,
        prefix=prefix,
        eligible_rows=rows,
        excluded_by_reason={},
        chunk_rows=100,
        call_rows=50,
        sender=sender,
        content=CampaignContent("s", "h", ""),
        on_unknown="hold",
        frozen_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_a_lead_is_found_by_reading_the_footer_and_one_row_group() -> None:
    store = Store()
    manifest = freeze(store)
    addresses = ManifestAddresses(store, lambda _: manifest)
    for position in (0, 99, 100, 457, 999):
        assert addresses.of_lead(CAMPAIGN, lead_id(position)) == [
            Mailed(lead_id(position), f"Lead{position}@example.com")
        ]
    whole = store.info(eligible_key(manifest.prefix))
    assert whole is not None
    assert store.read_bytes < whole.size_bytes / 10, "of five look-ups together"


@pytest.mark.parametrize("missing", [0, 11, lead_id(ROWS), -5])
def test_a_lead_that_was_not_mailed_is_not_found(missing: int) -> None:
    store = Store()
    manifest = freeze(store)
    assert ManifestAddresses(store, lambda _: manifest).of_lead(CAMPAIGN, missing) == []


def test_while_postgres_is_away_or_has_lost_the_row_every_manifest_in_the_bucket_counts() -> None:
    store = Store()
    freeze(store)
    freeze(store, SECOND, domain="other.example")

    def is_away(campaign_id: int) -> Manifest:
        raise PartUnavailableError("PostgreSQL did not answer")

    expected = ["Lead5@example.com", "Lead5@other.example"]
    for find in (is_away, lambda _: None):
        found = ManifestAddresses(store, find).of_lead(CAMPAIGN, lead_id(5))
        assert [one.address for one in found] == expected
        assert ManifestAddresses(store, find).of_lead(CAMPAIGN + 70, lead_id(5)) == [], "campaign 77 is another"


def test_while_the_bucket_is_away_nobody_knows_and_a_lost_or_corrupt_manifest_names_nobody() -> None:
    store = Store()
    manifest = freeze(store)
    addresses = ManifestAddresses(store, lambda _: manifest)
    store.is_down = True
    with pytest.raises(PartUnavailableError):
        addresses.of_lead(CAMPAIGN, lead_id(5))
    with pytest.raises(PartUnavailableError):
        addresses.of_messages(CAMPAIGN, {"m": "lead5@example.com"})
    store.is_down = False
    store.put(eligible_key(manifest.prefix), b"no Parquet")
    assert addresses.of_lead(CAMPAIGN, lead_id(5)) == []
    store.delete(eligible_key(manifest.prefix))
    assert addresses.of_lead(CAMPAIGN, lead_id(5)) == []


def test_a_manifest_with_damaged_bytes_raises_nothing_wherever_they_are() -> None:
    store = Store()
    manifest = freeze(store)
    key = eligible_key(manifest.prefix)
    whole = store.get(key)
    addresses = ManifestAddresses(store, lambda _: manifest)
    asked = {str(message_id(CAMPAIGN, lead_id(5))): "lead5@example.com"}
    for place in range(0, len(whole), max(1, len(whole) // 300)):
        store.put(key, whole[:place] + bytes([whole[place] ^ 0xC4]) + whole[place + 1 :])
        assert len(addresses.of_lead(CAMPAIGN, lead_id(5))) <= 1, place
        assert len(addresses.of_messages(CAMPAIGN, asked)) <= 1, place
    store.put(key, whole.replace(b"Lead5@", b"\xe4ead5@"))
    assert addresses.of_lead(CAMPAIGN, lead_id(5)) == []


def test_messages_are_found_by_the_address_that_is_named_and_by_their_id_where_it_is_another() -> None:
    store = Store()
    manifest = freeze(store)
    ids = {position: str(message_id(CAMPAIGN, lead_id(position))) for position in (1, 2, 3, 4)}
    named = {
        ids[1]: " LEAD1@example.com",
        ids[2]: "forwarded@other.example",
        ids[3]: "lead900@example.com",
        ids[4]: "",
        "0b7c2f5e-9d3a-5c1b-8a44-3f1d2c6b7a90": "lead5@example.com",
    }
    found = ManifestAddresses(store, lambda _: manifest).of_messages(CAMPAIGN, named)
    assert found == {ids[n]: Mailed(lead_id(n), f"Lead{n}@example.com") for n in (1, 2, 3, 4)}
    assert ManifestAddresses(store, lambda _: None).of_messages(CAMPAIGN, named) == {}


def test_an_address_is_in_no_repr() -> None:
    assert "ann" not in repr(Mailed(1, "ann@example.com"))
