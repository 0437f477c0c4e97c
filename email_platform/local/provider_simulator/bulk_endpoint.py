"""``POST /v1/bulk``: authentication, refusals, and the faults before and after an acceptance.

The invariant: a fault that promises "nothing accepted" acts before the acceptance. A client that hangs up does not
undo an acceptance under way, as with a real provider.
"""

from __future__ import annotations

import asyncio
import hashlib

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from email_platform.local.provider_simulator.acceptance import accept_once, accept_under_key
from email_platform.local.provider_simulator.answers import error_answer, throttled_answer, unauthorized_answer
from email_platform.local.provider_simulator.bulk_request import InvalidBulkRequestError, parse_bulk_call
from email_platform.local.provider_simulator.connections import (
    AnsweredTwice,
    header,
    read_body,
    reset_connection,
    wait_for_hang_up,
)
from email_platform.local.provider_simulator.faults import NOTHING_ACCEPTED, Fault
from email_platform.local.provider_simulator.idempotency import MAXIMUM_KEY_CHARACTERS
from email_platform.local.provider_simulator.simulator import Simulator


async def answer_bulk_call(simulator: Simulator, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer ``POST /v1/bulk``."""
    if not simulator.is_authorized(scope):
        # 401 without reading the body: a stranger must not make the process work.
        response = unauthorized_answer()
    else:
        answer = await _answer_bulk(simulator, scope, receive)
        if answer is None:
            await reset_connection(scope, receive)
            return
        response = answer
    simulator.answers[response.status_code] += 1
    await response(scope, receive, send)


async def _answer_bulk(simulator: Simulator, scope: Scope, receive: Receive) -> Response | None:
    """Return the answer; None to reset the connection instead."""
    simulator.counts["calls"] += 1
    body = await read_body(receive, simulator.settings.maximum_body_bytes)
    if body is None:
        return error_answer(
            413,
            "BodyTooLarge",
            f"at most {simulator.settings.maximum_body_bytes} bytes a call",
            headers={"connection": "close"},
        )
    if refused := simulator.refusals.of_size(len(body)):
        return error_answer(refused.status, refused.code, refused.message)
    fault = simulator.faults.next_call()
    if fault in NOTHING_ACCEPTED:
        simulator.faults.injected[fault] += 1
        return _refusal(simulator, fault)
    try:
        call = parse_bulk_call(
            body,
            maximum_recipients=simulator.settings.maximum_recipients,
            blocked_domains=simulator.settings.blocked_domains,
        )
    except InvalidBulkRequestError as refusal:
        return error_answer(400, refusal.code, str(refusal), path=refusal.path)
    if refused := simulator.refusals.of_call(call):
        return error_answer(refused.status, refused.code, refused.message)
    presented_key = header(scope, b"idempotency-key")
    key = None if presented_key is None else presented_key.decode("latin-1")
    if key is None or not simulator.settings.idempotency:
        outcome = await accept_once(simulator, call, key, None, fault)
    elif not 1 <= len(key) <= MAXIMUM_KEY_CHARACTERS:
        return error_answer(400, "InvalidIdempotencyKey", f"1 to {MAXIMUM_KEY_CHARACTERS} characters")
    else:
        outcome = await accept_under_key(simulator, call, key, hashlib.sha256(body).hexdigest(), fault)
    if outcome.status_code != 200 or fault is None or fault is Fault.SLOW:
        return outcome
    return await _spoil(simulator, outcome, fault, receive)


def _refusal(simulator: Simulator, fault: Fault) -> Response | None:
    if fault is Fault.THROTTLE:
        return throttled_answer(simulator.faults.plan.throttle_retry_after_seconds, "slow down (injected)")
    if fault is Fault.OUTAGE:
        return error_answer(503, "ServiceUnavailable", "the provider is down (injected)")
    if fault is Fault.REFUSE_ACCOUNT:
        return error_answer(403, "AccountSuspended", "sending is paused for this account (injected)")
    if fault is Fault.ERROR_5XX_BEFORE:
        return error_answer(500, "InternalFailure", "the call failed (injected)")
    return None


async def _spoil(simulator: Simulator, outcome: Response, fault: Fault, receive: Receive) -> Response | None:
    """Apply a fault that comes after the acceptance."""
    simulator.faults.injected[fault] += 1
    plan = simulator.faults.plan
    if fault is Fault.DUPLICATE_RESPONSE:
        return AnsweredTwice(outcome)
    if fault is Fault.ERROR_5XX_AFTER:
        # The same words as before the acceptance: as with a real provider, a client cannot see the difference.
        return error_answer(500, "InternalFailure", "the call failed (injected)")
    if fault is Fault.SLOW_RESPONSE:
        await simulator.wait(plan.slow_response_seconds)
        return outcome
    if fault is Fault.DROP_RESPONSE:
        hung_up = asyncio.ensure_future(wait_for_hang_up(receive))
        limit = asyncio.ensure_future(simulator.wait(plan.drop_response_limit_seconds))
        await asyncio.wait((hung_up, limit), return_when=asyncio.FIRST_COMPLETED)
        hung_up.cancel()
        limit.cancel()
    return None
