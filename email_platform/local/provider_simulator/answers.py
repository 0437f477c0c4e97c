"""The documents that the simulator answers with.

The invariant: every refusal has one form, ``{"error": {"code", "message", …}}``, and no header invites a client to
come back before its time.
"""

from __future__ import annotations

import math
from typing import Any

import orjson
from starlette.responses import Response


def json_answer(status: int, document: Any, headers: dict[str, str] | None = None) -> Response:
    """Return a document as JSON; bytes are JSON already."""
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return Response(body, status, headers, media_type="application/json")


def error_answer(
    status: int, code: str, message: str, *, headers: dict[str, str] | None = None, **fields: Any
) -> Response:
    """Return a refusal in the one form that all have."""
    return json_answer(status, {"error": {"code": code, "message": message, **fields}}, headers)


def throttled_answer(wait_seconds: float, message: str) -> Response:
    """Return a 429 with the time to wait, in the body to the microsecond and in the header rounded up."""
    # The header knows whole seconds only and must not invite a client too early.
    return error_answer(
        429,
        "Throttled",
        message,
        headers={"retry-after": str(max(1, math.ceil(wait_seconds)))},
        retry_after_seconds=round(wait_seconds, 6),
    )


def unauthorized_answer() -> Response:
    """Return the 401 for a missing or wrong API key."""
    return error_answer(
        401,
        "Unauthorized",
        "the API key is missing or wrong",
        headers={"www-authenticate": "Bearer", "connection": "close"},
    )
