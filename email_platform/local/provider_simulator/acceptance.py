"""The acceptance of a call: its key, the account's rate, the outcome of each recipient, the log.

The invariant: "accepted" is answered only behind `AcceptedLogWriter.append`, and a key that was used gets the same
answer as before, or none.
"""

from __future__ import annotations

import sqlite3

import orjson
from starlette.responses import Response

from email_platform.local.provider_simulator.accepted_log import read_stored_answer
from email_platform.local.provider_simulator.accepted_log_writer import AnsweredCall
from email_platform.local.provider_simulator.answers import error_answer, json_answer, throttled_answer
from email_platform.local.provider_simulator.bulk_request import BulkCall
from email_platform.local.provider_simulator.faults import Fault
from email_platform.local.provider_simulator.idempotency import KeyDecision, StoredAnswer, decide_key
from email_platform.local.provider_simulator.simulator import Simulator


async def accept_under_key(
    simulator: Simulator, call: BulkCall, key: str, fingerprint: str, fault: Fault | None
) -> Response:
    """Accept a call, or repeat the answer that its key got before."""
    stored = read_stored_answer(simulator.reader, simulator.settings.account, key)
    decision = decide_key(
        in_flight=key in simulator.in_flight,
        stored=stored,
        fingerprint=fingerprint,
        now_ms=simulator.now_ms(),
        lifetime_seconds=simulator.settings.idempotency_lifetime_seconds,
    )
    if decision is KeyDecision.IN_FLIGHT:
        return error_answer(409, decision.value, "a call with this key is being processed; ask again later")
    if decision is KeyDecision.OTHER_PAYLOAD:
        return error_answer(409, decision.value, "this key was used for another payload")
    if decision is KeyDecision.REPLAY:
        assert stored is not None
        # A replay sends nothing, so it costs a call and no recipient.
        wait_seconds = simulator.limiter.admit(0, simulator.monotonic_seconds())
        if wait_seconds:
            simulator.counts["throttled"] += 1
            return throttled_answer(wait_seconds, "the account's rate is exceeded")
        simulator.counts["idempotent_replays"] += 1
        return json_answer(200, stored.body.encode(), {"idempotent-replayed": "true"})
    simulator.in_flight.add(key)
    try:
        return await accept_once(simulator, call, key, fingerprint, fault)
    finally:
        simulator.in_flight.discard(key)


async def accept_once(
    simulator: Simulator, call: BulkCall, key: str | None, fingerprint: str | None, fault: Fault | None
) -> Response:
    """Accept a call whose key, if any, is not in use; answer 200 when it is in the log."""
    wait_seconds = simulator.limiter.admit(len(call.recipients), simulator.monotonic_seconds())
    if wait_seconds:
        simulator.counts["throttled"] += 1
        return throttled_answer(wait_seconds, "the account's rate is exceeded")
    if fault is Fault.SLOW:
        simulator.faults.injected[fault] += 1
        await simulator.wait(simulator.faults.plan.slow_seconds)
    if simulator.stopping.is_set():
        return error_answer(503, "ServiceUnavailable", "the provider is stopping")
    answered, body = _decide(simulator, call, key, fingerprint)
    try:
        await simulator.writer.append(answered)
    except sqlite3.Error as failure:
        # Rolled back: nothing of this call is in the log, so nothing was accepted.
        return error_answer(500, "InternalFailure", f"the call could not be logged: {failure}")
    simulator.counts["accepted_recipients"] += len(answered.accepted)
    simulator.counts["rejected_recipients"] += len(answered.rejected)
    _remember(simulator, call, answered)
    if answered.accepted:
        simulator.dispatcher.wake()
    return json_answer(200, body)


def _decide(
    simulator: Simulator, call: BulkCall, key: str | None, fingerprint: str | None
) -> tuple[AnsweredCall, bytes]:
    token = simulator.call_token()
    mask = simulator.outcomes.campaign_mask(call.campaign)
    planned_events = simulator.outcomes.planned_events
    accepted: list[tuple[str, str, str, str]] = []
    rejected: list[tuple[str, str, str, str]] = []
    results: list[dict[str, str]] = []
    for position, (address, message_id, rejection) in enumerate(call.recipients):
        rejection = rejection or simulator.refusals.of_entry(accepted)
        if rejection is None:
            provider_message_id = f"{token}-{position:04d}"
            accepted.append((address, message_id, provider_message_id, planned_events(address, mask)))
            results.append({"status": "accepted", "provider_message_id": provider_message_id})
        else:
            rejected.append((address, message_id, rejection.code, rejection.message))
            results.append({"status": "rejected", "code": rejection.code, "message": rejection.message})
    body = orjson.dumps({"results": results})
    now_ms = simulator.now_ms()
    stored = None if fingerprint is None else StoredAnswer(fingerprint, body.decode(), now_ms)
    answered = AnsweredCall(
        simulator.settings.account, key, call.call_id, call.campaign, now_ms, accepted, rejected, stored
    )
    return answered, body


def _remember(simulator: Simulator, call: BulkCall, answered: AnsweredCall) -> None:
    accepted = {message_id for _, message_id, _, _ in answered.accepted}
    for recipient in call.document["recipients"][-simulator.settings.recent_messages :]:
        if recipient["message_id"] in accepted:
            # Put together only on request: 50 newsletters of 100 kB would cost a call 10 ms.
            simulator.recent.append((call.document, recipient))
