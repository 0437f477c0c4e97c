"""Audiences on real PostgreSQL: who is eligible and who is not, in one snapshot and in constant memory."""

from __future__ import annotations

import threading
import tracemalloc
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, column, delete, insert, make_url, select, text, values
from sqlalchemy import Text as TextType

from email_platform.adapters.postgres.audience import (
    PostgresAudienceSource,
    candidates,
    is_valid_address_sql,
    mailable_address_sql,
    normalised_address_sql,
)
from email_platform.adapters.postgres.engine import create_oltp_engine
from email_platform.adapters.postgres.manifests import PostgresManifestStore
from email_platform.adapters.postgres.migrate import upgrade_to_head
from email_platform.adapters.postgres.tables import app_user, campaign_manifest, chunk, lead, sender, suppression
from email_platform.audience.conditions import parse_condition
from email_platform.audience.freeze import read_chunk, resolve_audience
from email_platform.domain.addresses import is_valid_address, mailable_address, normalised_address
from email_platform.domain.campaigns import Campaign, CampaignContent, CampaignStatus, Sender
from email_platform.domain.manifest import CANDIDATE_SCHEMA, Manifest
from email_platform.errors import InvalidConditionError, PartUnavailableError
from email_platform.settings import Settings
from tests.fakes.stores import InMemoryObjectStore

pytestmark = pytest.mark.integration

NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)
EVERYBODY = parse_condition({"all": []})
OURS, THEIRS = 1, 2  # senders


@pytest.fixture(scope="module")
def engine(stack: Settings) -> Iterator[Engine]:
    """A database of this module's own: an audience is about every lead there is."""
    url = make_url(stack.postgres_url.get_secret_value())
    server = create_oltp_engine(url.render_as_string(False))
    with server.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("drop database if exists test_audience with (force)"))
        connection.execute(text("create database test_audience"))
        own = url.set(database="test_audience").render_as_string(False)
        upgrade_to_head(own)
        engine = create_oltp_engine(own)
        yield engine
        engine.dispose()
        connection.execute(text("drop database test_audience with (force)"))
    server.dispose()


@pytest.fixture
def source(engine: Engine) -> PostgresAudienceSource:
    """Over no leads and no suppressions, and two senders."""
    with engine.begin() as connection:
        connection.execute(text("truncate lead, suppression, campaign, sender, app_user restart identity cascade"))
        connection.execute(insert(app_user).values(email="a@example.com", name="Ada"))
        connection.execute(
            insert(sender), [{"owner_id": 1, "from_address": "a@example.com", "from_name": "Ada"} for _ in range(2)]
        )
    return PostgresAudienceSource(engine, None)


def add(engine: Engine, *rows: dict[str, Any]) -> None:
    with engine.begin() as connection:
        for row in rows:
            connection.execute(insert(lead).values(row))


def suppress(engine: Engine, address: str, sender_id: int | None = None) -> None:
    with engine.begin() as connection:
        connection.execute(
            insert(suppression).values(address=address, sender_id=sender_id, reason="manual", source="test")
        )


def reasons(source: PostgresAudienceSource, raw: object = None) -> list[tuple[int, str | None]]:
    condition = EVERYBODY if raw is None else parse_condition(raw)
    with source.stream(condition, OURS, 2) as batches:
        table = pa.Table.from_batches(batches, schema=CANDIDATE_SCHEMA)
    return list(zip(table["lead_id"].to_pylist(), table["reason"].to_pylist(), strict=True))


def test_each_lead_has_the_first_reason_that_applies(engine: Engine, source: PostgresAudienceSource) -> None:
    suppress(engine, "both@example.com")
    suppress(engine, "gone@example.com")
    add(
        engine,
        {"email": "fine@example.com"},
        {"email": None, "unsubscribed_at": NOW},
        {"email": "no address", "unsubscribed_at": NOW},
        {"email": "both@example.com", "unsubscribed_at": NOW},
        {"email": "gone@example.com"},
        {"email": "fine@example.com"},
    )
    assert reasons(source) == [
        (1, None),
        (2, "invalid_address"),
        (3, "invalid_address"),
        (4, "unsubscribed"),
        (5, "suppressed"),
        (6, "duplicate_address"),
    ]


def test_suppression_is_for_every_sender_or_for_ours_and_ignores_case_and_spaces(
    engine: Engine, source: PostgresAudienceSource
) -> None:
    suppress(engine, "all@example.com")
    suppress(engine, "all@example.com", OURS)
    suppress(engine, "ours@example.com", OURS)
    suppress(engine, "theirs@example.com", THEIRS)
    add(
        engine,
        {"email": "  ALL@Example.com "},
        {"email": "Ours@example.com"},
        {"email": "theirs@example.com"},
    )
    assert reasons(source) == [(1, "suppressed"), (2, "suppressed"), (3, None)]


def test_of_leads_with_one_address_the_first_eligible_one_is_mailed(
    engine: Engine, source: PostgresAudienceSource
) -> None:
    add(
        engine,
        {"email": "other@example.com", "unsubscribed_at": NOW, "city": "Bonn"},
        {"email": "A@example.com ", "city": "Ulm"},
        {"email": "a@EXAMPLE.com", "city": "Bonn"},
        {"email": "b@example.com", "city": "Bonn"},
    )
    assert reasons(source) == [(1, "unsubscribed"), (2, None), (3, "duplicate_address"), (4, None)]
    in_bonn = {"field": "city", "op": "eq", "value": "Bonn"}
    assert reasons(source, in_bonn) == [(1, "unsubscribed"), (3, None), (4, None)], "only within this audience"


def test_an_opt_out_belongs_to_the_address_whichever_lead_has_it(
    engine: Engine, source: PostgresAudienceSource
) -> None:
    suppress(engine, "xn--bcher@xn--bcher-kva.example")
    add(
        engine,
        {"email": "ann@example.com", "unsubscribed_at": NOW, "city": "Bonn"},
        {"email": "ANN@example.com", "city": "Ulm"},
        {"email": "\u00a0ann@example.com\t", "city": "Ulm"},
        {"email": "ada@BÜCHER.example", "unsubscribed_at": NOW, "city": "Bonn"},
        {"email": "Ada@xn--bcher-kva.example", "city": "Ulm"},
        {"email": "xn--bcher@bücher.example", "city": "Ulm"},
        {"email": None, "unsubscribed_at": NOW, "city": "Ulm"},
        {"email": None, "city": "Ulm"},
        {"email": "bob@example.com", "city": "Ulm"},
    )
    in_ulm = {"field": "city", "op": "eq", "value": "Ulm"}
    assert reasons(source, in_ulm) == [
        (2, "unsubscribed"),
        (3, "unsubscribed"),
        (5, "unsubscribed"),
        (6, "suppressed"),
        (7, "invalid_address"),
        (8, "invalid_address"),
        (9, None),
    ], "the leads who opted out are not in this audience"


def test_an_address_is_mailed_without_what_a_spreadsheet_left_and_in_ascii(
    engine: Engine, source: PostgresAudienceSource, caplog: pytest.LogCaptureFixture
) -> None:
    left = [
        "ann@example.com\u00a0 ",
        "\u200bbob@example.com",
        "cem@example.com\t",
        "dee@example.com\r",
        "Eli@Straße.example",
    ]
    add(engine, *({"email": email} for email in left))
    add(engine, {"email": "as.it.is@example.com"})
    with caplog.at_level("INFO", "email_platform"), source.stream(EVERYBODY, OURS, 10) as batches:
        table = pa.Table.from_batches(batches, schema=CANDIDATE_SCHEMA)
    assert "5 addresses of the audience are written in another way" in caplog.text
    assert "@" not in caplog.text
    assert table["email"].to_pylist()[:5] == [
        "ann@example.com",
        "bob@example.com",
        "cem@example.com",
        "dee@example.com",
        "Eli@xn--strae-oqa.example",
    ]
    assert table["reason"].to_pylist() == [None] * 6


def test_a_candidate_carries_the_leads_columns(engine: Engine, source: PostgresAudienceSource) -> None:
    row = {
        "email": " Ada@example.com ",
        "first_name": "Ada",
        "last_name": "L.",
        "country": "GB",
        "city": "London",
        "plan": "pro",
        "language": "en-GB",
        "age": 36,
        "attributes": {"vip": True, "note": "ä"},
    }
    add(engine, row)
    with source.stream(EVERYBODY, OURS, 100) as batches:
        (found,) = pa.Table.from_batches(batches, schema=CANDIDATE_SCHEMA).to_pylist()
    assert found == {
        **row,
        "lead_id": 1,
        "email": "Ada@example.com",
        "attributes": '{"vip": true, "note": "ä"}',
        "reason": None,
    }


def test_leads_with_a_value_of_another_type_are_counted(engine: Engine, source: PostgresAudienceSource) -> None:
    values: list[Any] = [7, "7", "seven", True, [7], {"k": 7}, None]
    add(engine, *({"email": f"{at}@example.com", "attributes": {"n": value}} for at, value in enumerate(values)))
    add(engine, {"email": "none@example.com"}, {"email": "at@example.com", "attributes": {"n": "2026-03-01T09:00:00Z"}})
    condition = {
        "all": [
            {"field": "attributes.n", "op": "gt", "value": 5},
            {"not": {"field": "attributes.n", "op": "lt", "value": 3}},
            {"any": [{"field": "attributes.n", "type": "timestamp", "op": "gt", "value": "2026-01-01T00:00:00Z"}]},
            {"field": "attributes.n", "op": "is_null", "value": False},
            {"field": "age", "op": "is_null", "value": True},
        ]
    }
    found = source.other_types(condition, 10)
    assert found is not None
    assert {(one.compared, one.found): one.leads for one in found} == {
        ("number", "string"): 3,
        ("number", "boolean"): 1,
        ("number", "array"): 1,
        ("number", "object"): 1,
        ("timestamp", "string"): 2,
        ("timestamp", "number"): 1,
        ("timestamp", "boolean"): 1,
        ("timestamp", "array"): 1,
        ("timestamp", "object"): 1,
    }
    assert str(found[0]) == "attributes.n: 3 leads have a text where the condition compares a number"
    assert source.other_types({"field": "age", "op": "gt", "value": 5}, 10) == ()
    assert source.other_types({"field": "attributes.n", "type": "list", "op": "contains", "value": "x"}, 10)
    with engine.begin() as connection:
        connection.execute(text("lock table lead in access exclusive mode"))
        assert source.other_types(condition, 0.1) is None


def test_a_snapshot_does_not_see_what_is_written_meanwhile(engine: Engine, source: PostgresAudienceSource) -> None:
    add(engine, *({"email": f"l{number}@example.com"} for number in range(10)))
    with source.stream(EVERYBODY, OURS, 2) as batches:
        first = next(batches)
        add(engine, {"email": "late@example.com"})
        suppress(engine, "l9@example.com")
        with engine.begin() as connection:
            connection.execute(delete(lead).where(lead.c.id == 8))
        rest = list(batches)
    assert [batch.num_rows for batch in [first, *rest]] == [2, 2, 2, 2, 2]
    assert {reason for batch in rest for reason in batch.column("reason").to_pylist()} == {None}


def test_a_stream_that_is_left_half_way_lets_its_connection_go(engine: Engine, source: PostgresAudienceSource) -> None:
    add(engine, *({"email": f"l{number}@example.com"} for number in range(10)))
    with pytest.raises(ZeroDivisionError), source.stream(EVERYBODY, OURS, 2) as batches:  # noqa: PT012
        next(batches)
        raise ZeroDivisionError
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    with engine.begin() as connection:
        assert connection.execute(text("show transaction_read_only")).scalar() == "off", "options are not kept"
        assert connection.execute(text("show transaction isolation level")).scalar() == "read committed"


def test_a_database_that_goes_away_is_reported_as_an_unavailable_part(
    engine: Engine, source: PostgresAudienceSource
) -> None:
    add(engine, *({"email": f"l{number}@example.com"} for number in range(10)))
    end_others = text(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    with pytest.raises(PartUnavailableError), source.stream(EVERYBODY, OURS, 2) as batches:  # noqa: PT012
        next(batches)
        with engine.begin() as connection:
            connection.execute(end_others)
        list(batches)


some_addresses = (
    st.emails()
    | st.text(alphabet=st.sampled_from("aZ09.@-_+ \n\r\t,;<>\"'ä\u00a0"), max_size=20)
    | st.builds("{}@{}.{}".format, *[st.text(alphabet="aZ0-.", min_size=1, max_size=70)] * 3)
    | st.builds(str.__add__, st.sampled_from(["", " ", "\n"]), st.just("a@example.com"))
    | st.builds("{}Ann@{}.{}{}".format, *[st.text(max_size=12)] * 4)
    | st.builds(
        "a@{}.Example".format,
        st.text(alphabet="aI\u0130\u0131ßẞΣςÄÖé日本語。\uff0e\uff45\ufb01\u0308\u200b\u00ad-", min_size=1, max_size=60),
    )
)


def _can_be_stored(address: str) -> bool:
    """Without NUL and halves of surrogate pairs, and of characters whose form no later Unicode version changes."""
    return all(
        character != "\0" and (character < "\x80" or unicodedata.category(character) not in ("Cn", "Cs"))
        for character in address
    )


@given(st.lists(some_addresses.filter(_can_be_stored), min_size=1, max_size=50))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_postgres_and_python_tell_valid_addresses_alike(engine: Engine, addresses: list[str]) -> None:
    given_addresses = values(column("address", TextType), name="given").data([(address,) for address in addresses])
    address = given_addresses.c.address
    with engine.connect() as connection:
        answers = connection.execute(
            select(
                address, is_valid_address_sql(address), normalised_address_sql(address), mailable_address_sql(address)
            )
        ).all()
    assert [tuple(row) for row in answers] == [
        (address, is_valid_address(address), normalised_address(address), mailable_address(address))
        for address in addresses
    ]


def test_the_estimate_follows_the_condition_and_reads_no_lead(engine: Engine, source: PostgresAudienceSource) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into lead (email, country) "
                "select 'l' || n || '@example.com', case when n % 100 = 0 then 'FR' else 'DE' end "
                "from generate_series(1, 2000) as n"
            )
        )
        connection.execute(text("analyze lead"))
    assert source.estimate_rows({"all": []}) == 2000
    assert 10 <= source.estimate_rows({"field": "country", "op": "eq", "value": "FR"}) <= 30
    all_types = [
        {"field": "id", "op": "in", "value": [1, 2]},
        {"field": "created_at", "op": "between", "value": ["2026-01-01T00:00:00Z", "2026-03-01T09:00:00Z"]},
        {"field": "attributes.x", "op": "not_in", "value": [0.5, 1]},
        {"field": "attributes.x", "op": "eq", "value": "100%"},
        {"field": "attributes.x", "op": "ne", "value": True},
        {"field": "city", "op": "contains", "value": "100%s"},
    ]
    assert source.estimate_rows({"any": all_types}) > 0
    with pytest.raises(InvalidConditionError):
        source.estimate_rows({"country": "FR"})


def test_the_statement_scans_leads_twice_at_most_and_opt_outs_and_suppressions_once(
    source: PostgresAudienceSource,
) -> None:
    statement = str(candidates(EVERYBODY, OURS, None)).lower()
    assert statement.count("from lead") - statement.count("where lead.unsubscribed_at is not null") == 2
    assert statement.count("where lead.unsubscribed_at is not null") == 1
    assert statement.count("from suppression") == 1


# --- manifests ----------------------------------------------------------------------------------------------

_campaign_ids = count(1)


def a_campaign(**more: Any) -> Campaign:
    return Campaign(
        campaign_id=next(_campaign_ids),
        owner_id=1,
        name="Spring",
        sender=Sender(OURS, 1, "news@example.com", "News", None, "simulator", "default"),
        content=CampaignContent("Hello {{ first_name }}", "<p>ä</p>", ""),
        condition={"all": []},
        status=CampaignStatus.SENDING,
        status_reason=None,
        scheduled_at=None,
        attempt=1,
        **more,
    )


def resolve(source: PostgresAudienceSource, campaign: Campaign, store: InMemoryObjectStore) -> Manifest:
    return resolve_audience(campaign, source, store, lambda: NOW, chunk_rows=4, call_rows=2)


def test_a_resolved_audience_is_counted_cut_and_frozen_with_its_chunks(
    engine: Engine, source: PostgresAudienceSource
) -> None:
    suppress(engine, "l3@example.com")
    add(engine, *({"email": f"l{number}@example.com"} for number in range(12)), {"email": "bad"})
    campaign, store, manifests = a_campaign(on_unknown="resend"), InMemoryObjectStore(), PostgresManifestStore(engine)
    resolved = resolve(source, campaign, store)
    assert manifests.find(campaign.campaign_id) is None
    assert manifests.freeze(resolved) == resolved
    assert manifests.freeze(resolved) == resolved
    assert manifests.find(campaign.campaign_id) == resolved
    assert (resolved.eligible_rows, resolved.excluded_rows, resolved.chunk_count) == (11, 2, 3)
    assert read_chunk(store, resolved, 2).column("lead_id").to_pylist() == [10, 11, 12]
    assert chunk_indexes(engine, campaign.campaign_id) == [0, 1, 2]


def test_an_audience_without_a_lead_has_a_manifest_without_chunks(
    engine: Engine, source: PostgresAudienceSource
) -> None:
    campaign = a_campaign()
    frozen = PostgresManifestStore(engine).freeze(resolve(source, campaign, InMemoryObjectStore()))
    assert (frozen.considered_rows, frozen.chunk_count) == (0, 0)
    assert chunk_indexes(engine, campaign.campaign_id) == []


def test_of_many_writers_one_manifest_counts_and_all_learn_which(
    engine: Engine, source: PostgresAudienceSource
) -> None:
    add(engine, *({"email": f"l{number}@example.com"} for number in range(9)))
    manifest = resolve(source, a_campaign(), InMemoryObjectStore())
    rivals = [replace(manifest, manifest_id=uuid4(), chunk_rows=rows) for rows in (1, 2, 3, 4)]
    together = threading.Barrier(len(rivals))
    frozen_manifests: list[Manifest] = []

    def freeze(rival: Manifest) -> None:
        together.wait(30)
        frozen_manifests.append(PostgresManifestStore(engine).freeze(rival))

    threads = [threading.Thread(target=freeze, args=(rival,)) for rival in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(frozen_manifests) == len(rivals)
    (winner,) = {frozen.manifest_id for frozen in frozen_manifests}
    (won,) = (rival for rival in rivals if rival.manifest_id == winner)
    assert all(frozen == won for frozen in frozen_manifests)
    assert chunk_indexes(engine, manifest.campaign_id) == list(range(won.chunk_count))


def test_a_manifest_and_its_chunks_appear_together_or_not_at_all(
    engine: Engine, source: PostgresAudienceSource
) -> None:
    add(engine, {"email": "a@example.com"})
    manifest = resolve(source, a_campaign(), InMemoryObjectStore())
    with engine.begin() as connection:
        connection.execute(insert(chunk).values(campaign_id=manifest.campaign_id, chunk_index=0))
    with pytest.raises(Exception, match="pk_chunk"):
        PostgresManifestStore(engine).freeze(manifest)
    with engine.begin() as connection:
        wanted = campaign_manifest.c.campaign_id == manifest.campaign_id
        assert connection.execute(select(campaign_manifest.c.prefix).where(wanted)).all() == []


def chunk_indexes(engine: Engine, campaign_id: int) -> list[int]:
    statement = select(chunk.c.chunk_index).where(chunk.c.campaign_id == campaign_id).order_by(chunk.c.chunk_index)
    with engine.connect() as connection:
        return list(connection.execute(statement).scalars())


def test_a_hundred_thousand_wide_leads_take_no_more_memory_than_one_chunk_of_them(
    engine: Engine, source: PostgresAudienceSource
) -> None:
    lead_rows, attribute_bytes, chunk_rows = 100_000, 1_000, 5_000
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into lead (email, attributes) select 'l' || n || '@example.com', "
                "jsonb_build_object('note', rpad(md5(n::text), :bytes, md5((n + 1)::text))) "
                "from generate_series(1, :leads) as n"
            ),
            {"leads": lead_rows, "bytes": attribute_bytes},
        )
    python_peaks: list[int] = []
    arrow_peaks: list[int] = []

    def measure(_: int) -> None:
        python_peaks.append(tracemalloc.get_traced_memory()[1])
        arrow_peaks.append(pa.total_allocated_bytes())

    arrow_before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        manifest = resolve_audience(
            a_campaign(),
            source,
            DiscardingStore(),
            lambda: NOW,
            chunk_rows=chunk_rows,
            call_rows=50,
            on_progress=measure,
        )
    finally:
        tracemalloc.stop()
    chunk_bytes = chunk_rows * attribute_bytes
    assert manifest.eligible_rows == lead_rows
    assert len(arrow_peaks) == 21
    assert max(arrow_peaks) - arrow_before < 4 * chunk_bytes
    assert max(python_peaks) < 4 * chunk_bytes, "of 100 MB in all"


class DiscardingStore(InMemoryObjectStore):
    """Keeps nothing, so that only the resolver's own memory is measured."""

    def put(self, key: str, body: bytes) -> Any:
        return None

    def writer(self, key: str) -> Any:
        return open("/dev/null", "wb")  # noqa: PTH123
