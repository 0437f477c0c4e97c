"""Every provider's normaliser: whatever a proved body holds, it becomes events of the schema or a named problem."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from email_platform.events import EVENT_SCHEMA, ReceivedBody, event_table, normalise_body
from email_platform.events.event import MAXIMUM_DETAILS_BYTES, MAXIMUM_EVENT_ID_CHARACTERS
from email_platform.events.normalising import FORMATS
from tests.fuzz.mutation import changed_bodies
from tests.fuzz.target import Target

SAMPLES = Path(__file__).parents[1] / "unit/events/provider_events"
# The documented bodies are years old; 400 days back is the bound.
RECEIVED_AT = (datetime(2026, 6, 1, tzinfo=UTC), datetime(2020, 3, 1, tzinfo=UTC), datetime(2016, 3, 1, tzinfo=UTC))


def check(provider: str, body: bytes) -> None:
    for received_at in RECEIVED_AT:
        received = ReceivedBody(provider, "acme", received_at, "msg_1", body)
        normalised = normalise_body(received)
        assert "while it was read" not in normalised.problem, normalised.problem
        assert normalised == normalise_body(received)
        assert len(normalised.problem) < 2_000
        normalised.problem.encode()
        table = event_table(normalised.events)
        assert table.schema == EVENT_SCHEMA
        table.validate(full=True)
        for event in normalised.events:
            assert 0 < len(event.event_id) <= MAXIMUM_EVENT_ID_CHARACTERS
            assert len(event.details.encode()) <= MAXIMUM_DETAILS_BYTES
            assert isinstance(json.loads(event.details), dict)


TARGETS = [
    Target(
        f"events-{provider}",
        changed_bodies([case["body"] for case in json.loads((SAMPLES / f"{provider}.json").read_text())["cases"]]),
        partial(check, provider),
        150,
    )
    for provider in sorted(FORMATS)
]
