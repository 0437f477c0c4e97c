"""Refusals on purpose say what a real provider would say, and no more."""

from __future__ import annotations

import orjson
import pytest

from email_platform.errors import ConfigurationError
from email_platform.local.provider_simulator.bulk_request import BulkCall, parse_bulk_call
from email_platform.local.provider_simulator.refusals import RefusalPlan


def _call(sender: str = "News <news@example.org>") -> BulkCall:
    document = {
        "from": sender,
        "recipients": [
            {"to": f"{name}@example.com", "message_id": name, "subject": "s", "text": "t"} for name in ("ann", "bob")
        ],
    }
    return parse_bulk_call(orjson.dumps(document), maximum_recipients=50)


def test_nothing_is_refused_unless_asked_for() -> None:
    plan = RefusalPlan()
    assert (plan.of_size(10**9), plan.of_call(_call()), plan.of_entry([1] * 99)) == (None, None, None)


def test_a_body_above_the_size_is_refused() -> None:
    plan = RefusalPlan().changed_by({"body_bytes": 100})
    assert plan.of_size(100) is None
    refused = plan.of_size(101)
    assert refused is not None
    assert (refused.status, refused.code) == (413, "BodyTooLarge")


def test_a_sender_is_refused_by_his_bare_address() -> None:
    plan = RefusalPlan().changed_by({"senders": ["News@Example.org"]})
    refused = plan.of_call(_call())
    assert refused is not None
    assert (refused.status, refused.code) == (400, "SenderNotVerified")
    assert plan.of_call(_call("other@example.org")) is None


def test_a_call_is_refused_for_one_address_without_naming_it() -> None:
    plan = RefusalPlan().changed_by({"recipients": ["bob@example.com"]})
    refused = plan.of_call(_call())
    assert refused is not None
    assert (refused.status, refused.code) == (400, "InvalidRecipient")
    assert "bob" not in refused.message


def test_entries_are_refused_for_the_account_after_the_accepted_ones() -> None:
    plan = RefusalPlan().changed_by({"entries_accepted": 1})
    assert plan.of_entry([]) is None
    refused = plan.of_entry(["one"])
    assert refused is not None
    assert refused.code == "AccountPaused"


def test_fields_that_are_not_named_stay() -> None:
    plan = RefusalPlan().changed_by({"body_bytes": 5}).changed_by({"senders": ["a@x.org"]})
    assert (plan.body_bytes, plan.senders) == (5, ("a@x.org",))
    assert plan.changed_by({"body_bytes": None}).body_bytes is None


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([], "refusals"),
        ({"size": 1}, "size"),
        ({"body_bytes": -1}, "body_bytes"),
        ({"body_bytes": True}, "body_bytes"),
        ({"entries_accepted": "2"}, "entries_accepted"),
        ({"senders": "a@x.org"}, "senders"),
        ({"recipients": [1]}, "recipients"),
    ],
)
def test_a_wrong_plan_is_refused_by_the_name_of_its_field(document: object, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        RefusalPlan().changed_by(document)
