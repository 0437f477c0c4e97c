"""Requests to erase a person.

Invariant: no answer, and no entry of the audit log, holds the address: both name the request by the pseudonym.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Path, Request
from pydantic import BaseModel, ConfigDict, Field

from email_platform.adapters.assembly import open_erasures
from email_platform.api.problems import Refusal, field_refusal
from email_platform.api.route import Operator, audit_as
from email_platform.api.services import Work
from email_platform.api.values import Strict, Text, api_router
from email_platform.errors import CommandRefusedError
from email_platform.runs.erase import begin
from email_platform.runs.erasure_parts import Erasure

router = api_router("/v1", "leads")


class ErasureBody(Strict):
    """Whom to erase, by an address in any spelling."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"address": "ada@example.com"}]})

    address: Annotated[Text, Field(min_length=1, max_length=320)]


class ErasureDocument(BaseModel):
    """A request to erase a person; `erasure` stands in the place of the address from now on."""

    erasure: str
    state: Literal["under way", "finished"]
    requested_at: datetime
    finished_at: datetime | None
    removed: dict[str, int]
    waits_for: list[str]


@router.post("/erasures", summary="Erase a person", status_code=202)
def erase_person(body: ErasureBody, caller: Operator, services: Work, request: Request) -> ErasureDocument:
    """Have a person suppressed and no lead any more, at once; all else that names them goes by the next night.

    Safe to repeat. `email-platform lead erase` does all of it at once.
    """
    try:
        erasure = begin(open_erasures(services.settings, services.engine), body.address)
    except CommandRefusedError as refused:
        raise field_refusal("body.address", str(refused), "Send an address such as ada@example.com.") from None
    audit_as(request, f"/v1/erasures/{erasure.pseudonym}")
    return _document(erasure)


@router.get("/erasures/{erasure}", summary="See how far an erasure is")
def show_erasure(
    erasure: Annotated[str, Path(pattern=r"^erased-[0-9a-f]{40}@erased\.invalid$")], caller: Operator, services: Work
) -> ErasureDocument:
    """What was removed so far, and what it waits for."""
    found = open_erasures(services.settings, services.engine).find(erasure)
    if found is None:
        raise Refusal(404, "there is no such erasure")
    return _document(found)


def _document(erasure: Erasure) -> ErasureDocument:
    return ErasureDocument(
        erasure=erasure.pseudonym,
        state="under way" if erasure.finished_at is None else "finished",
        requested_at=erasure.requested_at,
        finished_at=erasure.finished_at,
        removed=dict(erasure.removed),
        waits_for=list(erasure.waits_for),
    )
