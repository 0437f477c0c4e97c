"""Users and senders: list, add, and ask the provider about an address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from email_platform.adapters.providers import provider_names
from email_platform.api.accounts import SenderBody, UserBody, VerificationDocument, new_sender, new_user, verified
from email_platform.api.problems import FieldProblem, Refusal
from email_platform.console.forms import field_problems_of
from email_platform.console.pages import see_other
from email_platform.console.visit import Visit
from email_platform.errors import ConfigurationError

_MOST_ROWS = 1000


def show_senders(visit: Visit) -> Response:
    """The senders that the caller may use; to an operator the users as well, with forms."""
    return _shown(visit)


def add_sender(visit: Visit) -> Response:
    """Make a sender, or show the form again with what is wrong."""
    form = visit.form
    try:
        body = SenderBody(
            owner=form.get("owner", "").strip(),
            from_address=form.get("from_address", "").strip(),
            from_name=form.get("from_name", "").strip(),
            reply_to=form.get("reply_to", "").strip() or None,
            provider=form.get("provider", ""),
            provider_account=form.get("provider_account", "").strip(),
        )
        visit.made(new_sender(body))
    except Exception as failure:
        return _shown(visit, form, _problems(failure))
    return see_other("/senders")


def add_user(visit: Visit) -> Response:
    """Make a user, or show the form again with what is wrong."""
    try:
        body = UserBody(email=visit.form.get("email", "").strip(), name=visit.form.get("name", "").strip())
        visit.made(new_user(body))
    except Exception as failure:
        return _shown(visit, visit.form, _problems(failure))
    return see_other("/senders")


def verify(visit: Visit) -> Response:
    """Ask the provider whether it would take mail from the address."""
    sender_id = visit.number("sender_id")
    if sender_id is None:
        raise Refusal(404, "there is no such sender", "The list shows the senders that you may use.")
    try:
        asked = verified(visit.services, visit.caller, sender_id)
    except ConfigurationError as missing:
        asked = VerificationDocument(sender_id=sender_id, verdict="unknown", says=str(missing))
    return _shown(visit, asked=asked)


def _problems(failure: Exception) -> Sequence[FieldProblem]:
    if isinstance(failure, Refusal) and failure.problem.status == 409:
        return [FieldProblem(field="", problem=failure.problem.detail, mend="")]
    return field_problems_of(failure)


def _shown(
    visit: Visit,
    typed: Mapping[str, str] | None = None,
    problems: Sequence[FieldProblem] = (),
    asked: VerificationDocument | None = None,
) -> Response:
    pages = visit.services.pages
    values: dict[str, Any] = {
        "senders": pages.senders(_MOST_ROWS, 0, visit.caller.user_id),
        "users": pages.users(_MOST_ROWS, 0, visit.caller.user_id),
        "providers": provider_names(),
        "typed": typed or {},
        "problems": problems,
        "wrong": {one.field: one for one in reversed(problems)},
        "asked": asked,
    }
    return visit.page("senders.html.j2", values, 422 if problems else 200)
