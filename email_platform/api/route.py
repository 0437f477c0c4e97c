"""Every endpoint's way in and out: the key, its rate, the audit log, the failures.

Invariant: nothing of a body is read before the key is known and has rate left; what may change something is in
the audit log before it does; whatever an endpoint raises becomes a problem document.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import orjson
from fastapi import Depends, HTTPException, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from email_platform.adapters.postgres.api_keys import Admission, Caller
from email_platform.api.problems import Refusal, response_for
from email_platform.api.services import Services
from email_platform.errors import PartUnavailableError

_logger = logging.getLogger("email_platform.api")

LARGEST_BODY_BYTES = 12 << 20
_LONGEST_KEY = 200
_READING = frozenset({"GET", "HEAD"})


class ExactRequest(Request):
    """A request whose JSON is what RFC 8259 allows: no NaN, no half of a surrogate pair, no endless nesting."""

    async def body(self) -> bytes:
        """The body, read up to `LARGEST_BODY_BYTES`; raises HTTPException 413."""
        if not hasattr(self, "_body"):
            read = bytearray()
            async for piece in self.stream():
                read += piece
                if len(read) > LARGEST_BODY_BYTES:
                    raise HTTPException(
                        413, f"the body is larger than {LARGEST_BODY_BYTES >> 20} MB: send less at once"
                    )
            self._body = bytes(read)
        return self._body

    async def json(self) -> Any:
        """The body; raises json.JSONDecodeError."""
        return orjson.loads(await self.body())


class ApiRoute(APIRoute):
    """A route that knows its caller."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the key, the audit log and the problems around FastAPI's own handler."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            services: Services = request.app.state.services
            entry_id = None
            try:
                caller = await run_in_threadpool(admitted, services, request.headers.get("authorization"))
                request.state.caller = caller
                if request.method not in _READING:
                    path = request.url.path
                    entry_id = await run_in_threadpool(services.requests.note, caller.key_id, request.method, path)
                response = await inner(ExactRequest(request.scope, request.receive))
            except ClientDisconnect:
                response = response_for(Refusal(400, "the connection ended before the body"))
            except Exception as failure:
                response = response_for(failure)
            if entry_id is not None:
                subject = getattr(request.state, "audited_as", None)
                await run_in_threadpool(note_answer, services, entry_id, response.status_code, subject)
            return response

        return handle


def audit_as(request: Request, path: str) -> None:
    """Have the audit log name what the request was about, where its own path does not."""
    request.state.audited_as = path


def note_answer(services: Services, entry_id: int, status: int, path: str | None = None) -> None:
    """Write the answer into the audit log's entry, as far as that can be done now.

    Args:
        services: of the process.
        entry_id: of the entry.
        status: of the answer.
        path: what stands in the entry instead of the request's own path.
    """
    try:
        services.requests.note_answer(entry_id, status, path)
    except PartUnavailableError:
        # What was done is done; the entry says that nobody knows.
        _logger.warning("the answer %d could not be noted in the audit log's entry %d", status, entry_id)


def admitted(services: Services, authorization: str | None) -> Caller:
    """Who sends this header.

    Raises:
        Refusal: 401 or 429.
    """
    scheme, _, secret = (authorization or "").partition(" ")
    secret = secret.strip()
    admission = None
    settings = services.settings
    if scheme.lower() == "bearer" and 0 < len(secret) <= _LONGEST_KEY:
        admission = services.keys.admit(secret, settings.api_requests_per_second, settings.api_burst_requests)
    if admission is None:
        raise Refusal(
            401,
            "the request has no API key, or one that nobody has or that was revoked",
            "Send the header `Authorization: Bearer KEY`; `email-platform api-key add` makes a key.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return within_rate(services, admission)


def within_rate(services: Services, admission: Admission) -> Caller:
    """Who makes the request.

    Raises:
        Refusal: 429.
    """
    if admission.wait_seconds:
        raise Refusal(
            429,
            f"this key may make {services.settings.api_requests_per_second:g} requests a second",
            "Send the request again after the time in Retry-After.",
            headers={"Retry-After": str(math.ceil(admission.wait_seconds))},
        )
    return admission.caller


_BEARER = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="A key made by `email-platform api-key add`.")


def _caller(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]) -> Caller:
    caller: Caller = request.state.caller
    return caller


AnyCaller = Annotated[Caller, Depends(_caller)]


def editor(caller: AnyCaller) -> Caller:
    """The caller, who may change something; raises Refusal 403."""
    if caller.role == "reader":
        raise Refusal(403, "a key of the role reader changes nothing", "Use a key of the role owner or operator.")
    return caller


def operator(caller: AnyCaller) -> Caller:
    """The caller, who may change what belongs to nobody; raises Refusal 403."""
    if caller.role != "operator":
        raise Refusal(403, f"a key of the role {caller.role} may not do this", "Use a key of the role operator.")
    return caller


def sees_all(caller: AnyCaller) -> Caller:
    """The caller, who may see what belongs to anybody; raises Refusal 403."""
    if caller.user_id is not None:
        raise Refusal(403, "the answer would show what belongs to others", "Use a key that belongs to no user.")
    return caller


Editor = Annotated[Caller, Depends(editor)]
"""An owner or an operator."""
Operator = Annotated[Caller, Depends(operator)]
SeesAll = Annotated[Caller, Depends(sees_all)]
"""An operator, or a reader who is bound to no user."""
