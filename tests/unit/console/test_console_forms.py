"""What is typed into forms, and that every template escapes what others have written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from email_platform.api.campaign_models import CampaignBody, CampaignContentDocument
from email_platform.api.problems import Refusal, field_refusal
from email_platform.console.forms import campaign_fields, field_problems_of, moment_of, typed_fields, whole_number
from email_platform.console.pages import page
from email_platform.errors import ConflictError, InvalidConditionError, InvalidTemplateError

FORM = {
    "name": " Spring ",
    "sender_id": "3",
    "subject": "Hello {{ first_name }}",
    "html": "<p>Hi</p>",
    "text": "",
    "condition": '{"all": []}',
    "on_unknown": "resend",
    "inline_css": "on",
    "at": "2199-12-01T09:00",
    "zone": "Europe/Berlin",
}


def test_a_form_is_what_the_api_takes() -> None:
    body = CampaignBody(**campaign_fields(FORM))
    assert (body.name, body.sender_id, body.inline_css, body.mjml) == ("Spring", 3, True, False)
    assert body.checked().scheduled_at == datetime(2199, 12, 1, 8, tzinfo=UTC)


def test_a_saved_campaign_comes_back_as_it_was_typed() -> None:
    body = CampaignBody(**campaign_fields(FORM))
    saved = CampaignContentDocument(
        campaign_id=1, version=4, **{**body.model_dump(), "scheduled_at": datetime(2199, 12, 1, 8, tzinfo=UTC)}
    )
    typed = typed_fields(saved)
    assert typed["version"] == "4"
    assert CampaignBody(**campaign_fields(typed)).checked() == body.checked()


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"condition": "{"}, "condition", "is no JSON"),
        ({"condition": ""}, "condition", "is no JSON"),
        ({"condition": "[]"}, "condition", "an object"),
        ({"condition": '{"all": [{"field": "shoe", "op": "eq", "value": 1}]}'}, "condition", "at all[0]"),
        ({"sender_id": "x"}, "sender_id", "whole number"),
        ({"name": "  "}, "name", "must not be empty"),
        ({"html": ""}, "html", "is empty"),
        ({"on_unknown": "maybe"}, "on_unknown", "hold"),
        ({"zone": "Mars/Base"}, "at", "no time zone"),
        ({"at": "soon"}, "at", "no time"),
        ({"subject": "{{ oops"}, "subject", ""),
        ({"html": "<p>{% include 'x' %}</p>"}, "html", ""),
    ],
)
def test_a_wrong_field_is_named_with_what_is_wrong(changed: dict[str, str], field: str, words: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which kind it is, is what the next line is about
        CampaignBody(**campaign_fields({**FORM, **changed})).checked()
    problems = field_problems_of(caught.value)
    assert problems[0].field == field
    assert words in problems[0].problem
    assert problems[0].mend


def test_what_is_not_about_the_form_is_not_taken_for_it() -> None:
    with pytest.raises(ConflictError):
        field_problems_of(ConflictError("somebody else"))
    with pytest.raises(ZeroDivisionError):
        field_problems_of(ZeroDivisionError())


def test_a_number_is_digits_that_a_column_can_hold() -> None:
    assert whole_number({"lead": " 17 "}, "lead", "an id") == 17
    for wrong in ("", "0", "-1", "1.0", "٣", str(2**63), "9" * 5000):
        with pytest.raises(Refusal) as caught:
            whole_number({"lead": wrong}, "lead", "an id")
        assert caught.value.problem.errors[0].field == "lead"


def test_a_time_needs_no_zone_but_has_one() -> None:
    assert moment_of({"at": ""}) is None
    assert moment_of({"at": "2026-12-01T09:00"}) == "2026-12-01 09:00 UTC"


def test_problems_of_templates_and_conditions_stand_at_their_fields() -> None:
    (one,) = field_problems_of(InvalidTemplateError("html template, line 3: no"))
    assert one.field == "html"
    (one,) = field_problems_of(InvalidConditionError("$.all[1].op", "is no operator"))
    assert (one.field, one.problem) == ("condition", "at all[1].op: is no operator")
    (one,) = field_problems_of(field_refusal("body.sender_id", "there is none", "GET /v1/senders"))
    assert (one.field, one.mend) == ("sender_id", "Choose a sender of the list.")


def test_a_page_escapes_whatever_it_shows() -> None:
    hostile = "</p><script>alert(1)</script>\"'\u202e"
    refusal = Refusal(409, hostile, hostile)
    answer = page("failure.html.j2", {"caller": None, "problem": refusal.problem}, 409)
    body = bytes(answer.body).decode()
    assert "<script>alert" not in body
    assert "&lt;script&gt;" in body
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
