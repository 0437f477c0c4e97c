"""Users, who own senders and campaigns, and senders, from which campaigns are sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from fastapi import Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import Connection
from starlette.responses import Response

from email_platform.adapters.assembly import ask_about_sender
from email_platform.adapters.postgres.accounts import NewSender, PostgresAccounts, add_sender, add_user
from email_platform.adapters.postgres.api_keys import Caller
from email_platform.adapters.providers import account_problem
from email_platform.api.idempotent import Name, made_once
from email_platform.api.problems import Refusal, field_refusal
from email_platform.api.route import AnyCaller, Editor, Operator
from email_platform.api.services import Services, Work
from email_platform.api.values import LARGEST_ID, After, Limit, Strict, Text, api_router, digits
from email_platform.domain.addresses import mailable_address
from email_platform.domain.typed_address import address_problem
from email_platform.errors import CommandRefusedError

router = api_router("/v1", "people")

_Address = Annotated[Text, Field(min_length=1, max_length=320)]
_Name = Annotated[Text, Field(min_length=1, max_length=500)]
SenderId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="The sender's id."), BeforeValidator(digits)]


class UserBody(Strict):
    """Somebody who will own senders and campaigns."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"email": "ada@example.com", "name": "Ada"}]})

    email: _Address
    name: _Name


class UserRow(BaseModel):
    """A person who owns senders and campaigns."""

    user_id: int
    email: str
    name: str
    created_at: datetime


class UserPage(BaseModel):
    """Users, by id."""

    items: list[UserRow]
    next: int | None


class SenderBody(Strict):
    """An address to send from; `owner` is the address of the user who will own it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"owner": "ada@example.com", "from_address": "news@example.com", "from_name": "Ada's shop"}]
        }
    )

    owner: _Address
    from_address: _Address
    from_name: _Name
    reply_to: _Address | None = None
    provider: Annotated[Text, Field(min_length=1, max_length=100)] = "simulator"
    provider_account: Annotated[Text, Field(min_length=1, max_length=100)] = "default"


class SenderRow(BaseModel):
    """An address that campaigns are sent from."""

    sender_id: int
    owner_id: int
    owner_email: str
    from_address: str
    from_name: str
    reply_to: str | None
    provider: str
    provider_account: str
    created_at: datetime


class SenderPage(BaseModel):
    """Senders, by id."""

    items: list[SenderRow]
    next: int | None


class VerificationDocument(BaseModel):
    """Whether the provider would take mail from the address, in its own words."""

    sender_id: int
    verdict: Literal["verified", "not_verified", "unknown"]
    says: str


@router.get("/users", summary="List users")
def list_users(caller: AnyCaller, services: Work, limit: Limit = 50, after: After = None) -> UserPage:
    """Every user; only the key's own where it belongs to one."""
    items = [UserRow.model_validate(row) for row in services.pages.users(limit, after or 0, caller.user_id)]
    return UserPage(items=items, next=items[-1].user_id if len(items) == limit else None)


@router.post("/users", summary="Make a user", status_code=201, response_model=UserRow)
def make_user(body: UserBody, caller: Operator, services: Work, name: Name) -> Response:
    """Make a user, who can own senders and campaigns."""
    return made_once(services, name, new_user(body))


def new_user(body: UserBody) -> Callable[[Connection], UserRow]:
    """Check all of it; what is returned makes the user.

    Raises:
        Refusal: names the field.
    """
    email = _checked("email", body.email)

    def write(connection: Connection) -> UserRow:
        try:
            user = add_user(connection, email, body.name.strip())
        except CommandRefusedError as refused:
            raise field_refusal("body.email", str(refused), "Use the user that is there.") from None
        return UserRow(**asdict(user))

    return write


@router.get("/senders", summary="List senders")
def list_senders(caller: AnyCaller, services: Work, limit: Limit = 50, after: After = None) -> SenderPage:
    """Every sender; only the user's own where the key belongs to one."""
    items = [SenderRow.model_validate(row) for row in services.pages.senders(limit, after or 0, caller.user_id)]
    return SenderPage(items=items, next=items[-1].sender_id if len(items) == limit else None)


@router.post("/senders", summary="Make a sender", status_code=201, response_model=SenderRow)
def make_sender(body: SenderBody, caller: Operator, services: Work, name: Name) -> Response:
    """Make a sender: an address, and the provider account that sends for it. Whether it may is asked by `verify`."""
    return made_once(services, name, new_sender(body))


def new_sender(body: SenderBody) -> Callable[[Connection], SenderRow]:
    """Check all of it; what is returned makes the sender.

    Raises:
        Refusal: names the field.
    """
    if problem := account_problem(body.provider, body.provider_account):
        field = "provider" if problem.field == "provider" else "provider_account"
        raise field_refusal(f"body.{field}", problem.text, "Choose one that the platform knows.")
    new = NewSender(
        owner_email=_checked("owner", body.owner),
        from_address=_checked("from_address", body.from_address),
        from_name=body.from_name.strip(),
        reply_to=None if body.reply_to is None else _checked("reply_to", body.reply_to),
        provider=body.provider,
        provider_account=body.provider_account,
    )

    def write(connection: Connection) -> SenderRow:
        try:
            made = add_sender(connection, new)
        except CommandRefusedError as refused:
            raise Refusal(409, str(refused)) from None
        return SenderRow(**asdict(made.sender), owner_email=made.owner_email, created_at=made.created_at)

    return write


@router.post("/senders/{sender_id}/verify", summary="Ask the provider about a sender")
def verify(sender_id: SenderId, caller: Editor, services: Work) -> VerificationDocument:
    """Ask the provider whether it would take mail from the address; sends nothing. Some cannot be asked: unknown."""
    return verified(services, caller, sender_id)


def verified(services: Services, caller: Caller, sender_id: int) -> VerificationDocument:
    """What the provider says of a sender that the caller may use.

    Raises:
        Refusal: 404, there is none.
        ConfigurationError: the account has no credentials.
    """
    found = PostgresAccounts(services.engine).senders(sender_id)
    if not found or not caller.sees(found[0].sender.owner_id):
        raise Refusal(404, f"there is no sender {sender_id}", "GET /v1/senders lists the senders that you may use.")
    checked = ask_about_sender(services.settings, found[0].sender, services.variables)
    return VerificationDocument(sender_id=sender_id, verdict=checked.verdict, says=checked.says)


def _checked(field: str, given: str) -> str:
    if problem := address_problem(given):
        raise field_refusal(f"body.{field}", problem, "Send an address such as ada@example.com.")
    return mailable_address(given)
