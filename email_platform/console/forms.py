"""What a person types into a form, as the API's bodies.

Invariant: a field that is wrong is named with what is wrong and what to do, and everything that was typed is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from email_platform.api.campaign_models import CampaignContentDocument
from email_platform.api.problems import FieldProblem, field_refusal
from email_platform.console.visit import refusal_of
from email_platform.errors import InvalidTemplateError

ZONES = ("UTC", "Europe/London", "Europe/Berlin", "Europe/Istanbul", "America/New_York", "America/Los_Angeles",
         "Asia/Kolkata", "Asia/Singapore", "Asia/Tokyo", "Australia/Sydney")  # fmt: skip
"""Offered; any name of the time zone database is taken."""
ANYBODY = '{"all": []}'


def whole_number(form: Mapping[str, str], name: str, what: str) -> int:
    """A field's number.

    Raises:
        Refusal: names the field.
    """
    written = form.get(name, "").strip()
    if not (written.isascii() and written.isdigit()) or not 0 < int(written[:20]) < 2**63:
        raise field_refusal(name, "is no whole number above 0", f"Type {what}.")
    return int(written)


def moment_of(form: Mapping[str, str]) -> str | None:
    """Date, time and zone as the API takes them; None where no date was chosen."""
    date = form.get("at", "").strip().replace("T", " ")
    if not date:
        return None
    return f"{date} {form.get('zone', '').strip() or 'UTC'}"


def campaign_fields(form: Mapping[str, str]) -> dict[str, Any]:
    """What the campaign's form says, as `CampaignBody` takes it.

    Raises:
        Refusal: names the field.
    """
    try:
        condition = orjson.loads(form.get("condition", ""))
    except orjson.JSONDecodeError as error:
        raise field_refusal(
            "condition",
            f"is no JSON: {error.msg} at line {error.lineno}",
            f"Write it as docs/conditions.md has it; {ANYBODY} is everybody.",
        ) from None
    return {
        "name": form.get("name", "").strip(),
        "sender_id": whole_number(form, "sender_id", "the id of a sender"),
        "subject": form.get("subject", ""),
        "html": form.get("html", ""),
        "text": form.get("text", ""),
        "condition": condition,
        "mjml": "mjml" in form,
        "inline_css": "inline_css" in form,
        "on_unknown": form.get("on_unknown", "hold"),
        "scheduled_at": moment_of(form),
    }


def typed_fields(content: CampaignContentDocument) -> dict[str, str]:
    """What a saved campaign's form shows."""
    at = content.scheduled_at
    shown = {
        "name": content.name,
        "sender_id": str(content.sender_id),
        "subject": content.subject,
        "html": content.html,
        "text": content.text,
        "condition": orjson.dumps(content.condition, option=orjson.OPT_INDENT_2).decode(),
        "on_unknown": content.on_unknown,
        "at": "" if at is None else f"{at:%Y-%m-%dT%H:%M}",
        "zone": "UTC",
        "version": str(content.version),
    }
    return shown | {name: "on" for name in ("mjml", "inline_css") if getattr(content, name)}


def field_problems_of(failure: Exception) -> Sequence[FieldProblem]:
    """What is wrong with which field of a form; the field is empty where it is about all of it.

    Raises:
        Exception: the failure itself, where it is not about what was typed.
    """
    if isinstance(failure, InvalidTemplateError):
        part = str(failure).split(maxsplit=1)[0].strip(":,'\"").lower()
        field = part if part in ("subject", "html", "text") else ""
        return [
            FieldProblem(field=field, problem=str(failure), mend="Correct the template as docs/templates.md has it.")
        ]
    refusal = refusal_of(failure)
    if refusal.problem.status != 422:
        raise failure
    if not refusal.problem.errors:
        return [FieldProblem(field="", problem=refusal.problem.detail, mend=refusal.problem.mend)]
    return [_named(one) for one in refusal.problem.errors]


def _named(problem: FieldProblem) -> FieldProblem:
    """The problem at the form's field; the place in the condition is part of the words."""
    name = problem.field.removeprefix("body.")
    field = {"scheduled_at": "at"}.get(name, name)
    where = ""
    if field.startswith("condition") and field != "condition":
        where = f"at {field.removeprefix('condition').lstrip('.')}: "
        field = "condition"
    mend = "Choose a sender of the list." if field == "sender_id" else problem.mend
    return FieldProblem(field=field, problem=f"{where}{problem.problem}", mend=mend)
