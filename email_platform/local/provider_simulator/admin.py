"""The admin API: plans are read and changed, counts and the log are read.

The invariant: a plan is replaced whole or not at all, and nothing here changes what was accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from email_platform.errors import ConfigurationError
from email_platform.local.provider_simulator.answers import json_answer
from email_platform.local.provider_simulator.bulk_request import put_together
from email_platform.local.provider_simulator.faults import Fault
from email_platform.local.provider_simulator.rate_limit import AccountRateLimiter, RateLimit
from email_platform.local.provider_simulator.refusals import RefusalPlan
from email_platform.local.provider_simulator.simulator import Simulator

AdminAnswer = Callable[[Simulator, Request], Awaitable[Response]]

_MAXIMUM_PAGE_ROWS = 10_000


async def health(simulator: Simulator, request: Request) -> Response:
    """Answer ``GET /health``: 200 while calls can be answered; an injected outage does not count."""
    return json_answer(200, {"status": "ok", "account": simulator.settings.account})


async def get_faults(simulator: Simulator, request: Request) -> Response:
    """Answer ``GET /admin/faults``: the plan in force."""
    return json_answer(200, simulator.faults.plan.as_document())


async def put_faults(simulator: Simulator, request: Request) -> Response:
    """Answer ``PUT /admin/faults``: fields that are named replace those in force."""
    simulator.faults.steer(simulator.faults.plan.changed_by(await _read_json(request)))
    return await get_faults(simulator, request)


async def delete_faults(simulator: Simulator, request: Request) -> Response:
    """Answer ``DELETE /admin/faults``: no faults from now on; durations and seed stay."""
    simulator.faults.steer(
        replace(simulator.faults.plan, probabilities={}, script=(), outage=False, refuse_account=False)
    )
    return await get_faults(simulator, request)


async def get_refusals(simulator: Simulator, request: Request) -> Response:
    """Answer ``GET /admin/refusals``: the plan in force."""
    return json_answer(200, asdict(simulator.refusals))


async def put_refusals(simulator: Simulator, request: Request) -> Response:
    """Answer ``PUT /admin/refusals``: fields that are named replace those in force."""
    simulator.refusals = simulator.refusals.changed_by(await _read_json(request))
    return await get_refusals(simulator, request)


async def delete_refusals(simulator: Simulator, request: Request) -> Response:
    """Answer ``DELETE /admin/refusals``: nothing is refused on purpose from now on."""
    simulator.refusals = RefusalPlan()
    return await get_refusals(simulator, request)


async def get_rate_limit(simulator: Simulator, request: Request) -> Response:
    """Answer ``GET /admin/rate_limit``."""
    return json_answer(200, asdict(simulator.limiter.limit))


async def put_rate_limit(simulator: Simulator, request: Request) -> Response:
    """Answer ``PUT /admin/rate_limit``: new limits with full buckets."""
    document = await _read_json(request)
    allowed = asdict(simulator.limiter.limit).keys()
    if not isinstance(document, dict) or document.keys() - allowed:
        raise ConfigurationError(f"rate_limit: an object of {', '.join(sorted(allowed))}")
    for name, value in document.items():
        unlimited = value is None and name != "burst_seconds"
        if isinstance(value, bool) or not (unlimited or isinstance(value, int | float)):
            raise ConfigurationError(f"{name}: must be a number (a rate: or null)")
    limit: RateLimit = replace(simulator.limiter.limit, **document)
    simulator.limiter = AccountRateLimiter(limit, simulator.monotonic_seconds())
    return await get_rate_limit(simulator, request)


async def get_webhooks(simulator: Simulator, request: Request) -> Response:
    """Answer ``GET /admin/webhooks``."""
    return json_answer(200, asdict(simulator.dispatcher.plan))


async def put_webhooks(simulator: Simulator, request: Request) -> Response:
    """Answer ``PUT /admin/webhooks``: fields that are named replace those in force."""
    simulator.dispatcher.steer(simulator.dispatcher.plan.changed_by(await _read_json(request)))
    return await get_webhooks(simulator, request)


async def statistics(simulator: Simulator, request: Request) -> Response:
    """Answer ``GET /admin/statistics``: counts since the process started, and the webhook backlog."""
    return json_answer(
        200,
        {
            **{
                name: simulator.counts[name]
                for name in (
                    "calls",
                    "accepted_recipients",
                    "rejected_recipients",
                    "idempotent_replays",
                    "throttled",
                )
            },
            "answers": {str(status): count for status, count in sorted(simulator.answers.items())},
            "faults": {str(fault): simulator.faults.injected[fault] for fault in Fault},
            "webhooks": {
                **{
                    name: simulator.dispatcher.counts[name]
                    for name in (
                        "attempts",
                        "delivered_posts",
                        "duplicated_posts",
                        "refused",
                        "unreachable",
                    )
                },
                **simulator.outbox.backlog(),
            },
        },
    )


async def accepted_summary(simulator: Simulator, request: Request) -> Response:
    """Answer ``GET /admin/accepted/summary?campaign=``."""
    campaign = request.query_params.get("campaign")
    summary = await asyncio.to_thread(simulator.log.summary, campaign)
    rejected_rows = await asyncio.to_thread(simulator.log.rejected_rows, campaign)
    return json_answer(200, {"campaign": campaign, **asdict(summary), "rejected_rows": rejected_rows})


async def accepted_duplicates(simulator: Simulator, request: Request) -> Response:
    """Answer ``GET /admin/accepted/duplicates?campaign=``: message ids accepted more than once."""
    duplicates = await asyncio.to_thread(simulator.log.duplicates, request.query_params.get("campaign"))
    return json_answer(
        200, {"duplicates": [{"message_id": name, "times": times} for name, times in duplicates.items()]}
    )


async def accepted_page(simulator: Simulator, request: Request) -> Response:
    """Answer ``GET /admin/accepted?campaign=&after=&limit=``: a page, and where the next one starts."""
    after_sequence = _query_integer(request, "after", 0, 0, 2**62)
    limit = _query_integer(request, "limit", 1000, 1, _MAXIMUM_PAGE_ROWS)
    page = await asyncio.to_thread(
        simulator.log.page, request.query_params.get("campaign"), after_sequence=after_sequence, limit=limit
    )
    rows = [{**asdict(row), "accepted_at": row.accepted_at.isoformat()} for row in page]
    return json_answer(200, {"rows": rows, "next_after": page[-1].sequence if len(page) == limit else None})


async def recent_messages(simulator: Simulator, request: Request) -> Response:
    """Answer ``GET /admin/recent_messages``: the last accepted messages, put together."""
    messages = [
        {
            "call": {name: document.get(name) for name in ("from", "reply_to")},
            **recipient,
            **put_together(document, recipient),
        }
        for document, recipient in simulator.recent
    ]
    return json_answer(200, {"as_of": datetime.fromtimestamp(simulator.now_ms() / 1000, UTC), "messages": messages})


async def _read_json(request: Request) -> Any:
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as broken:
        raise ConfigurationError(f"the body is not JSON: {broken}") from broken


def _query_integer(request: Request, name: str, default: int, lowest: int, highest: int) -> int:
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
        raise ConfigurationError(f"{name}: must be an integer from {lowest} to {highest}")
    return int(text)


ADMIN_ROUTES: tuple[tuple[str, str, AdminAnswer], ...] = (
    ("GET", "/health", health),
    ("GET", "/admin/faults", get_faults),
    ("PUT", "/admin/faults", put_faults),
    ("DELETE", "/admin/faults", delete_faults),
    ("GET", "/admin/refusals", get_refusals),
    ("PUT", "/admin/refusals", put_refusals),
    ("DELETE", "/admin/refusals", delete_refusals),
    ("GET", "/admin/rate_limit", get_rate_limit),
    ("PUT", "/admin/rate_limit", put_rate_limit),
    ("GET", "/admin/webhooks", get_webhooks),
    ("PUT", "/admin/webhooks", put_webhooks),
    ("GET", "/admin/statistics", statistics),
    ("GET", "/admin/accepted/summary", accepted_summary),
    ("GET", "/admin/accepted/duplicates", accepted_duplicates),
    ("GET", "/admin/accepted", accepted_page),
    ("GET", "/admin/recent_messages", recent_messages),
)
"""Method, path and the function that answers."""
