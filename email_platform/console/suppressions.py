"""Addresses that must not be mailed: list, add, lift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from email_platform.adapters.postgres.suppression_lifts import PostgresSuppressionLifts
from email_platform.api.people import SuppressionBody, list_suppressions, new_suppression
from email_platform.api.problems import FieldProblem, field_refusal
from email_platform.console.forms import field_problems_of, whole_number
from email_platform.console.pages import HOME, see_other
from email_platform.console.visit import Visit
from email_platform.domain.suppression_reasons import SUPPRESSION_REASONS

_PAGE_ROWS = 50
_LIFTED_ROWS = 20
_MOST_SENDERS = 1000
_LONGEST_WHY = 1000


def show_suppressions(visit: Visit) -> Response:
    """A page of them, the newest first, with forms."""
    return _shown(visit, {})


def add(visit: Visit) -> Response:
    """Have an address not mailed any more."""
    try:
        body = SuppressionBody(
            address=visit.form.get("address", "").strip(),
            sender_id=whole_number(visit.form, "sender_id", "a sender's id") if visit.form.get("sender_id") else None,
            reason=visit.form.get("reason", "manual"),  # type: ignore[arg-type]  # it is checked there
            source=f"console: {visit.caller.name}"[:100],
        )
        write = new_suppression(visit.services, visit.caller, body)
    except Exception as failure:
        return _shown(visit, visit.form, field_problems_of(failure))
    return see_other(f"/suppressions?{urlencode({'address': visit.made(write)['address']})}")


def lift(visit: Visit) -> Response:
    """Let an address be mailed again; who did it and why is kept."""
    why = visit.form.get("why", "").strip()
    if not why or len(why) > _LONGEST_WHY:
        raise field_refusal("why", "is empty or too long", "Say in a sentence why the address may be mailed again.")
    suppression_id = visit.number("suppression_id")
    if suppression_id is None:
        raise field_refusal("suppression", "is none", "Choose one of the list.")
    address = PostgresSuppressionLifts(visit.services.engine).lift(suppression_id, visit.caller.key_id, why)
    return see_other(f"/suppressions?{urlencode({'address': address})}")


def _shown(visit: Visit, typed: Mapping[str, str], problems: Sequence[FieldProblem] = ()) -> Response:
    address = visit.query("address")[:320]
    found = list_suppressions(
        visit.caller,
        visit.services,
        _PAGE_ROWS,
        visit.number("after"),
        address or None,
    )
    kept = {"address": address} if address else {}
    lifts = PostgresSuppressionLifts(visit.services.engine)
    values: dict[str, Any] = {
        "rows": found.items,
        "older": f"{HOME}/suppressions?{urlencode({**kept, 'after': found.next})}" if found.next else None,
        "address": address,
        "typed": typed,
        "problems": problems,
        "wrong": {one.field: one for one in reversed(problems)},
        "reasons": SUPPRESSION_REASONS,
        "senders": visit.services.pages.senders(_MOST_SENDERS, 0, visit.caller.user_id),
        "lifted": lifts.newest(_LIFTED_ROWS) if visit.caller.user_id is None else (),
    }
    return visit.page("suppressions.html.j2", values, 422 if problems else 200)
