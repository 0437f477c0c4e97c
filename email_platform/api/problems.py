"""Every failure of the HTTP API as one problem document (RFC 9457, ``application/problem+json``).

Invariant: a problem says what is wrong, in which field where it is one, and how to mend it. It never repeats a value
that was sent, and a fault of ours says nothing but that it is one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from email_platform.errors import (
    CampaignNotFoundError,
    CommandRefusedError,
    ConfigurationError,
    ConflictError,
    EmailPlatformError,
    IllegalTransitionError,
    InvalidConditionError,
    InvalidTemplateError,
    PartUnavailableError,
    ProviderError,
    wrong_value,
)

_logger = logging.getLogger("email_platform.api")

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
_SCHEMA = "Send what /openapi.json says for this field."


class FieldProblem(BaseModel):
    """What is wrong with one field.

    Attributes:
        field: where in the request, as ``body.sender_id`` or ``query.limit``.
        mend: what to do about it.
    """

    field: str
    problem: str
    mend: str


class Problem(BaseModel):
    """A failure; members as in RFC 9457, and the fields that are wrong.

    Attributes:
        type: ``about:blank``: the status says what kind of failure it is.
        mend: what to do about it.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    mend: str = ""
    errors: list[FieldProblem] = []


class Refusal(Exception):  # noqa: N818  (an answer, not an error)
    """Ends a request with a problem."""

    def __init__(
        self,
        status: int,
        detail: str,
        mend: str = "",
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(
            title=HTTPStatus(status).phrase, status=status, detail=detail, mend=mend, errors=list(errors)
        )
        self.headers = dict(headers or {})


def field_refusal(field: str, problem: str, mend: str) -> Refusal:
    """The answer where a field can be read and its value is wrong all the same."""
    one = FieldProblem(field=field, problem=problem, mend=mend)
    return Refusal(422, f"{field}: {problem}", mend, [one])


def response_for(failure: Exception) -> JSONResponse:
    """The answer to a request that ended in this failure."""
    refusal = refusal_for(failure)
    return JSONResponse(
        refusal.problem.model_dump(), refusal.problem.status, headers=refusal.headers, media_type=MEDIA_TYPE
    )


def refusal_for(failure: Exception) -> Refusal:
    """The refusal that says what a failure means to the caller.

    Length: a table, a line or two for each kind of failure.
    """
    match failure:
        case Refusal():
            return failure
        case RequestValidationError():
            return _invalid(failure)
        case HTTPException():
            detail = failure.detail if failure.status_code != 404 else "there is nothing at this address"
            return Refusal(failure.status_code, str(detail), headers=failure.headers)
        case CampaignNotFoundError():
            return Refusal(404, str(failure), "GET /v1/campaigns lists the campaigns that your key may see.")
        case IllegalTransitionError():
            return Refusal(409, str(failure), "Look at the campaign, and do what its status allows.")
        case ConflictError():
            return Refusal(409, str(failure), "Look at what it says now, then decide.")
        case InvalidConditionError():
            one = FieldProblem(
                field=f"body.condition{failure.path.removeprefix('$')}",
                problem=failure.problem,
                mend="Write it as docs/conditions.md has it.",
            )
            return Refusal(422, str(failure), one.mend, [one])
        case InvalidTemplateError():
            return Refusal(422, str(failure), "Correct the template as docs/templates.md has it.")
        case CommandRefusedError():
            return Refusal(422, str(failure), "Do what the detail says.")
        case PartUnavailableError() | ProviderError():
            return Refusal(
                503,
                str(failure),
                "Nothing is wrong with the request: send it again later.",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        case ConfigurationError():
            _logger.error("%s", failure)
            return Refusal(500, str(failure), "An operator must change a setting: ask one.")
        case EmailPlatformError():
            return Refusal(409, str(failure), "Do what the detail says.")
        case _:
            _logger.error("a request failed by a fault of ours", exc_info=failure)
            return Refusal(500, "the request failed by a fault of ours", "Report it; the API's log has the details.")


def _invalid(failure: RequestValidationError) -> Refusal:
    errors = field_problems(failure.errors())
    detail = "; ".join(f"{one.field}: {one.problem}" for one in errors[:5])
    return Refusal(422, detail, "Correct the fields that `errors` names.", errors)


def field_problems(errors: Sequence[Mapping[str, Any]]) -> list[FieldProblem]:
    """Pydantic's errors, each as a problem of its field."""
    return [
        FieldProblem(field=".".join(map(str, one["loc"])), problem=problem_words(one), mend=_SCHEMA) for one in errors
    ]


def problem_words(error: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says, by its kind; a message may repeat the value only where we put it there."""
    if error["type"] == "json_invalid":
        return f"is no JSON: {error['ctx']['error']}"
    if error["type"] == "extra_forbidden":
        return "is no field of this request"
    return wrong_value(error["type"], str(error["msg"]), error.get("ctx", {}))


PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for status, words in (
        (400, "The request cannot be read, or lacks a header."),
        (401, "No API key, or one that nobody has."),
        (403, "The key's role does not allow it."),
        (404, "There is no such thing, or the key may not see it."),
        (409, "Somebody else changed it, or its state does not allow it."),
        (413, "The body is too large."),
        (422, "A field is wrong, or what is asked for cannot be done; `errors` names the fields."),
        (429, "The key has used up its rate; see Retry-After."),
        (500, "A fault of ours, or of a setting."),
        (503, "A part does not answer; see Retry-After."),
    )
}
