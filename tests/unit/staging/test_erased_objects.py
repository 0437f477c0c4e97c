"""An object without a person: the same rows in the same groups, with the pseudonym in the person's cells."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from email_platform.domain.erasure import ErasedPerson, ErasureKey
from email_platform.domain.manifest import ELIGIBLE_SCHEMA
from email_platform.events.event import EVENT_SCHEMA
from email_platform.events.received import ReceivedBody, from_parquet, to_parquet
from email_platform.staging.erased_objects import named_rows, object_without, rewrite_recipients
from tests.fakes.stores import InMemoryObjectStore

KEY = ErasureKey("a secret of more than sixteen characters")
ANN = ErasedPerson("ann@example.com", KEY.pseudonym("ann@example.com"))
MANIFEST = "manifests/campaign=1/x/eligible.parquet"


def recipients() -> bytes:
    rows = [
        {
            "position": position,
            "lead_id": position + 1,
            "email": "Ann@Example.com" if position == 3 else f"joann{position}@example.com",
            "first_name": "Ann",
            "age": 40,
            "attributes": '{"friend": "ann@example.com"}' if position == 4 else '{"friend": "bob@example.com"}',
        }
        for position in range(6)
    ]
    buffer = BytesIO()
    with pq.ParquetWriter(buffer, ELIGIBLE_SCHEMA) as writer:
        for first in (0, 2, 4):
            writer.write_table(pa.Table.from_pylist(rows[first : first + 2], schema=ELIGIBLE_SCHEMA), row_group_size=2)
    return buffer.getvalue()


def test_a_manifest_keeps_its_rows_and_groups_and_loses_what_was_known_of_the_person() -> None:
    store = InMemoryObjectStore()
    store.put(MANIFEST, recipients())
    assert named_rows(store, MANIFEST, ANN) == [3]
    assert rewrite_recipients(store, MANIFEST, ANN) == 2
    after = pq.ParquetFile(BytesIO(store.get(MANIFEST)))
    assert [after.metadata.row_group(group).num_rows for group in range(3)] == [2, 2, 2]
    assert after.schema_arrow == ELIGIBLE_SCHEMA
    before = pq.ParquetFile(BytesIO(recipients())).read().to_pylist()
    rows = after.read().to_pylist()
    known = dict.fromkeys(("first_name", "last_name", "country", "city", "plan", "language", "age"))
    assert rows[3] == {**known, "position": 3, "lead_id": 4, "email": ANN.pseudonym, "attributes": "{}"}
    assert rows[4] == {**before[4], "attributes": f'{{"friend": "{ANN.pseudonym}"}}'}
    assert [rows[one] for one in (0, 1, 2, 5)] == [before[one] for one in (0, 1, 2, 5)]
    statistics = repr(after.metadata.to_dict())
    assert "Ann@" not in statistics, "a column's smallest and largest values stand in the footer"
    assert named_rows(store, MANIFEST, ANN) is None


def test_an_event_keeps_its_identity_and_loses_its_details() -> None:
    times = dict.fromkeys(("occurred_at", "received_at"), datetime(2026, 11, 1, tzinfo=UTC))
    numbers = {"campaign_id": 1, "status_rank": 90, "normaliser_version": 2}
    event = {field.name: field.name for field in EVENT_SCHEMA} | times | numbers
    rows = [
        {**event, "recipient": "Ann <ann@example.com>"},
        {**event, "details": '{"diagnostic": "not ann@example.com"}'},
    ]
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=EVENT_SCHEMA), buffer)
    rewritten = object_without("events/normalised/x.parquet", buffer.getvalue(), ANN)
    assert rewritten is not None
    assert pq.read_table(BytesIO(rewritten.body)).to_pylist() == [
        {**event, "recipient": ANN.pseudonym, "details": "{}"},
        {**event, "details": f'{{"diagnostic": "not {ANN.pseudonym}"}}'},
    ]
    assert object_without("events/normalised/x.parquet", rewritten.body, ANN) is None


@pytest.mark.parametrize(
    ("body", "archived", "set_aside"),
    [
        (b'[{"to":"ann@example.com"},{"to":"b"}]', b'[{"to":"b"}]', b'[{"to":"%s"},{"to":"b"}]'),
        (b'{"e":[{"to":"Ann@example.com"},{"to":"b"}]}', b'{"e":[{"to":"b"}]}', b'{"e":[{"to":"%s"},{"to":"b"}]}'),
        (b'{"Message":"{\\"to\\":\\"ann\\u0040example.com\\"}"}', None, b'{"Message":"{\\"to\\":\\"%s\\"}"}'),
        (b'not JSON: ann@example.com \xff', None, b"not JSON: %s \xff"),
        (b'{"to":"bob@example.com"}', b'{"to":"bob@example.com"}', b'{"to":"bob@example.com"}'),
    ],
)  # fmt: skip
def test_the_archive_loses_the_person_s_events_and_the_quarantine_keeps_its_bodies(
    body: bytes, archived: bytes | None, set_aside: bytes
) -> None:
    stored = to_parquet([ReceivedBody("ses", "default", datetime(2026, 11, 1, tzinfo=UTC), "", body)])
    raw = object_without("events/raw/2026-11-01/x.parquet", stored, ANN)
    kept = from_parquet(stored if raw is None else raw.body)
    assert [one.body for one in kept] == ([] if archived is None else [archived])
    aside = object_without("events/quarantine/2026-11-01/x.parquet", stored, ANN)
    (kept_aside,) = from_parquet(stored if aside is None else aside.body)
    assert kept_aside.body == set_aside.replace(b"%s", ANN.pseudonym.encode())


def test_a_page_names_the_pseudonym() -> None:
    rewritten = object_without("reports/campaign=1.html", b"<p>ann@example.com \xff</p>", ANN)
    assert rewritten is not None
    assert rewritten.body == b"<p>" + ANN.pseudonym.encode() + b" \xff</p>"
