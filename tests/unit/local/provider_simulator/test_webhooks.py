"""Events follow from what was accepted, and are signed as Standard Webhooks says."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
from pathlib import Path

import pytest

from email_platform.errors import ConfigurationError
from email_platform.local.provider_simulator.settings import SimulatorSettings
from email_platform.local.provider_simulator.webhook_outbox import events_body, expand_events
from email_platform.local.provider_simulator.webhook_plan import WebhookPlan, retry_pause_seconds
from email_platform.local.provider_simulator.webhook_signature import signed_headers, signing_key


def test_the_signature_covers_id_timestamp_and_body() -> None:
    key = b"k" * 32
    headers = signed_headers(key, "msg_1", 1_700_000_000, b'{"a":1}')
    digest = hmac.new(key, b'msg_1.1700000000.{"a":1}', hashlib.sha256).digest()
    assert headers == {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1700000000",
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def test_a_receiver_with_the_standard_library_accepts_the_signature() -> None:
    standardwebhooks = pytest.importorskip("standardwebhooks")
    import time

    secret = "whsec_" + base64.b64encode(b"s" * 32).decode()
    body = b'{"events":[]}'
    headers = signed_headers(signing_key(secret), "msg_1", int(time.time()), body)
    assert standardwebhooks.Webhook(secret).verify(body, headers) == {"events": []}


def test_a_secret_with_the_standard_prefix_is_base64_and_any_other_is_text() -> None:
    assert signing_key("whsec_" + base64.b64encode(b"raw").decode()) == b"raw"
    assert signing_key("plain words") == b"plain words"


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64!"])
def test_an_unusable_secret_is_refused_without_repeating_it(secret: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        signing_key(secret)
    assert "not base64!" not in str(refusal.value)


def test_no_secret_shows_in_the_settings() -> None:
    settings = SimulatorSettings(Path("f"), "127.0.0.1", 1, api_key="hush-key", webhook_secret="hush-secret")
    assert "hush" not in repr(settings)


def test_only_loopback_addresses_can_be_listened_on() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        SimulatorSettings(Path("f"), host, 1, api_key="k", webhook_secret="s")
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.com"):
        with pytest.raises(ConfigurationError, match="loopback"):
            SimulatorSettings(Path("f"), host, 1, api_key="k", webhook_secret="s")


def test_the_events_of_a_message_follow_each_other_whatever_the_delay() -> None:
    rows = [(sequence, "delivered,opened,clicked", 1000) for sequence in range(1, 50)]
    for delay_seconds in (0.0, 5.0):
        events = expand_events(rows, seed=1, delay_seconds=delay_seconds)
        assert [event.occurred_at_ms for event in events] == sorted(event.occurred_at_ms for event in events)
        for sequence, *_ in rows:
            kinds = [event.type for event in events if event.accepted_sequence == sequence]
            assert kinds == ["delivered", "opened", "clicked"]


def test_subtype_and_detail_come_from_the_plan_and_the_same_rows_give_the_same_bytes() -> None:
    [event] = expand_events([(1, "bounced:hard:Suppressed", 0)], seed=1, delay_seconds=0)
    assert (event.type, event.subtype, event.detail) == ("bounced", "hard", "Suppressed")
    row = ("p-1", "bounced", "hard", "Suppressed", "m1", "a@x.com", "c", 1)
    assert events_body([row]) == events_body([row])
    assert b'"event_id":"evt_p-1_bounced"' in events_body([row])
    assert b'"occurred_at":"1970-01-01T00:00:00.001+00:00"' in events_body([row])


def test_pauses_double_up_to_the_limit() -> None:
    plan = WebhookPlan(retry_base_seconds=0.5, retry_limit_seconds=3.0)
    pauses = [retry_pause_seconds(plan, attempts) for attempts in (1, 2, 3, 4, 10_000)]
    assert pauses == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(
    "document",
    [
        {"url": "ftp://x"},
        {"url": 3},
        {"batch_size": 0},
        {"batch_size": "1"},
        {"delay_seconds": "x"},
        {"duplicate_probability": 2},
        {"nonsense": 1},
        [],
    ],
)
def test_a_wrong_webhook_plan_is_refused(document: object) -> None:
    with pytest.raises(ConfigurationError):
        WebhookPlan().changed_by(document)


def test_a_plan_is_changed_field_by_field() -> None:
    plan = WebhookPlan(batch_size=7).changed_by({"url": "http://127.0.0.1:1/events"})
    assert (plan.batch_size, plan.url) == (7, "http://127.0.0.1:1/events")
    assert dataclasses.replace(plan, url=None).url is None
