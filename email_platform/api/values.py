"""Types that requests and answers share.

Invariant: no text of a request holds a NUL character, which PostgreSQL takes in no text; no number exceeds its column.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from email_platform.api.problems import PROBLEM_RESPONSES
from email_platform.api.route import ApiRoute

LARGEST_ID = 2**63 - 1
NO_NUL = r"^[^\x00]*$"


def digits(written: object) -> object:
    """A number in an address is digits and nothing else: no 1.0, no +1, no blanks."""
    if isinstance(written, str) and not (written.isascii() and written.isdigit()):
        raise ValueError("is no whole number")
    return written


Id = Annotated[int, Field(ge=1, le=LARGEST_ID)]
Text = Annotated[str, Field(pattern=NO_NUL)]
CampaignId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="The campaign's id."), BeforeValidator(digits)]
LeadId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="The lead's id."), BeforeValidator(digits)]
Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many."), BeforeValidator(digits)]
After = Annotated[
    int | None, Query(ge=1, le=LARGEST_ID, description="`next` of the page before; none for the first page.")
]


class Strict(BaseModel):
    """A request's body: no field more, and each of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True)


def api_router(prefix: str, tag: str | None = None) -> APIRouter:
    """A router whose endpoints know their caller and name the failures that any of them may have."""
    return APIRouter(
        prefix=prefix, tags=None if tag is None else [tag], route_class=ApiRoute, responses=PROBLEM_RESPONSES
    )
