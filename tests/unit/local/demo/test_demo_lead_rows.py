"""The demo's lead lines: safe for COPY and JSON, independent of how they are cut, and fit for the templates."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from email_platform.audience.conditions import parse_condition
from email_platform.content.compile import check_content, compile_content
from email_platform.content.render import render_rows
from email_platform.content.unsubscribe import UnsubscribeSigner
from email_platform.domain.campaigns import Sender
from email_platform.domain.manifest import ELIGIBLE_SCHEMA, Manifest
from email_platform.local.demo import lead_vocabulary
from email_platform.local.demo.campaigns import CAMPAIGN_PLANS, CampaignPlan
from email_platform.local.demo.lead_rows import BLOCK_ROWS, COPY_COLUMNS, lead_blocks
from email_platform.local.provider_simulator.outcomes import is_valid_address


def lines(seed: int, first_lead: int, last_lead: int) -> list[str]:
    return [line for block in lead_blocks(seed, first_lead, last_lead) for line in block.lines]


def parsed(line: str) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(COPY_COLUMNS, line.removesuffix("\n").split("\t"), strict=True))
    return {name: None if value == r"\N" else value for name, value in values.items()}


def test_no_word_needs_escaping_in_copy_or_json() -> None:
    words = [
        *(word for names in lead_vocabulary.NAMES.values() for pair in (*names.first, *names.last) for word in pair),
        *(city for country in lead_vocabulary.COUNTRIES for city in country.cities),
        *lead_vocabulary.DOMAINS,
        *lead_vocabulary.TAGS,
    ]
    assert not [word for word in words if not word or any(c in word for c in '\\"\t\r\n')]
    romanised = [pair[1] for names in lead_vocabulary.NAMES.values() for pair in (*names.first, *names.last)]
    assert all(name.isascii() and name.isalnum() for name in romanised)
    spoken = {language for country in lead_vocabulary.COUNTRIES for language in country.languages}
    assert spoken == set(lead_vocabulary.NAMES)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(BLOCK_ROWS - 50, BLOCK_ROWS + 50))
def test_a_lead_does_not_depend_on_how_the_leads_are_cut(seed: int, cut: int) -> None:
    first, last = BLOCK_ROWS - 60, BLOCK_ROWS + 60
    assert lines(seed, first, cut) + lines(seed, cut, last) == lines(seed, first, last)
    suppressed = [
        [
            address
            for start, end in parts
            for block in lead_blocks(seed, start, end)
            for address in block.suppressed_addresses
        ]
        for parts in ([(first, cut), (cut, last)], [(first, last)])
    ]
    assert suppressed[0] == suppressed[1]


def test_every_line_has_every_column_and_json_that_parses() -> None:
    for line in lines(3, 0, 3_000):
        lead = parsed(line)
        attributes = orjson.loads(lead["attributes"])
        assert attributes["demo_seed"] == 3
        assert isinstance(attributes["beta"], bool)
        assert 0 <= attributes["churn_risk"] <= 1
        assert datetime.fromisoformat(attributes["last_seen_at"]).tzinfo is not None
        assert datetime.fromisoformat(lead["created_at"]) <= datetime(2026, 6, 2, tzinfo=UTC)
        assert lead["age"] is None or 16 <= int(lead["age"]) <= 92


def test_a_few_good_addresses_are_at_the_domain_that_the_provider_refuses() -> None:
    addresses = [parsed(line)["email"] or "" for line in lines(3, 0, BLOCK_ROWS)]
    refused = [one for one in addresses if one.endswith(f"@{lead_vocabulary.BLOCKED_DOMAIN}")]
    assert BLOCK_ROWS / 1_000 < len(refused) < BLOCK_ROWS / 300
    assert all(map(is_valid_address, refused))
    assert 0.97 * BLOCK_ROWS < sum(map(is_valid_address, addresses)) < 0.995 * BLOCK_ROWS


@pytest.mark.parametrize("plan", CAMPAIGN_PLANS, ids=lambda plan: plan.name)
def test_every_demo_campaign_renders_for_every_demo_lead_whatever_it_lacks(plan: CampaignPlan) -> None:
    parse_condition(plan.condition)
    compiled = compile_content(plan.content)
    check_content(compiled)
    leads = [parsed(line) for line in lines(5, 0, 2_000)]
    rows = [
        {name: lead[name] for name in ("first_name", "last_name", "country", "city", "plan", "language", "attributes")}
        | {"position": index, "lead_id": index + 1, "email": lead["email"] or ""}
        | {"age": None if lead["age"] is None else int(lead["age"])}
        for index, lead in enumerate(leads)
    ]
    manifest = Manifest(
        1,
        UUID(int=1),
        "manifests/1",
        len(rows),
        {},
        1000,
        50,
        Sender(1, 1, plan.owner.from_address, plan.owner.from_name, None, "simulator", "default"),
        plan.content,
        "hold",
        datetime(2026, 6, 1, tzinfo=UTC),
    )
    signer = UnsubscribeSigner(SecretStr("a secret that is only for tests"), "https://mail.example.com")
    rendered = render_rows(compiled, pa.Table.from_pylist(rows, schema=ELIGIBLE_SCHEMA), manifest, signer)
    messages = [rendered.skeleton.message(values) for values in rendered.values if isinstance(values, tuple)]
    assert len(messages) == len(rows)
    assert not [message for message in messages if "None" in message.html or "None" in message.text]
    assert all(message.subject and message.text for message in messages)
    assert all(signer.url(1, row["lead_id"], 1) in message.html for row, message in zip(rows, messages, strict=True))
