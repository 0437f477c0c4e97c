"""Requests that make something, and may be sent again without making it twice.

Invariant: a repeat with the same Idempotency-Key gets the first answer, and one with another body is refused. A request
that failed made nothing, so that its key may be used again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import BaseModel
from sqlalchemy import Connection
from starlette.responses import JSONResponse

from email_platform.adapters.postgres.api_requests import RequestName
from email_platform.api.route import AnyCaller
from email_platform.api.services import Services

REPLAYED = "Idempotent-Replayed"


async def _request_name(
    request: Request,
    caller: AnyCaller,
    idempotency_key: Annotated[
        str,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=200,
            pattern=r"^[!-~]+$",
            description="Chosen by the caller, such as a UUID, and kept for 72 hours: a repeat of the request with "
            "the same key gets the first answer and makes nothing twice.",
        ),
    ],
) -> RequestName:
    digest = hashlib.sha256(f"{request.method} {request.url.path}\n".encode())
    digest.update(await request.body())
    return RequestName(caller.key_id, idempotency_key, digest.digest())


Name = Annotated[RequestName, Depends(_request_name)]


def made_once(
    services: Services, name: RequestName, effect: Callable[[Connection], BaseModel], status: int = 201
) -> JSONResponse:
    """Do it in one transaction with the answer that is kept, or give the answer that is kept."""
    found, body, is_replay = services.requests.once(
        name, status, lambda connection: effect(connection).model_dump(mode="json")
    )
    return JSONResponse(body, found, headers={REPLAYED: "true"} if is_replay else None)
