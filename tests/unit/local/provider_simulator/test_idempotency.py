"""What a key decides, case by case."""

from __future__ import annotations

import pytest

from email_platform.local.provider_simulator.idempotency import KeyDecision, StoredAnswer, decide_key

_STORED = StoredAnswer("same", "{}", stored_at_ms=1_000_000)


@pytest.mark.parametrize(
    ("in_flight", "stored", "fingerprint", "age_ms", "decision"),
    [
        (False, None, "same", 0, KeyDecision.ACCEPT),
        (False, _STORED, "same", 0, KeyDecision.REPLAY),
        (False, _STORED, "same", 59_999, KeyDecision.REPLAY),
        (False, _STORED, "same", 60_000, KeyDecision.ACCEPT),
        (False, _STORED, "other", 59_999, KeyDecision.OTHER_PAYLOAD),
        (False, _STORED, "other", 60_000, KeyDecision.ACCEPT),
        (True, None, "same", 0, KeyDecision.IN_FLIGHT),
        (True, _STORED, "same", 60_000, KeyDecision.IN_FLIGHT),
    ],
)
def test_a_key_accepts_one_payload_once_within_its_lifetime(
    in_flight: bool, stored: StoredAnswer | None, fingerprint: str, age_ms: int, decision: KeyDecision
) -> None:
    decided = decide_key(
        in_flight=in_flight,
        stored=stored,
        fingerprint=fingerprint,
        now_ms=_STORED.stored_at_ms + age_ms,
        lifetime_seconds=60.0,
    )
    assert decided is decision


def test_a_key_lives_24_hours_unless_set_otherwise() -> None:
    day_ms = 24 * 3600 * 1000
    decisions = [
        decide_key(in_flight=False, stored=_STORED, fingerprint="same", now_ms=_STORED.stored_at_ms + day_ms + late_ms)
        for late_ms in (-1, 0)
    ]
    assert decisions == [KeyDecision.REPLAY, KeyDecision.ACCEPT]
