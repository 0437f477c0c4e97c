"""When an answer of `explain` counts as right in the demo."""

from __future__ import annotations

from dataclasses import replace

import pytest

from email_platform.local.demo.explained import Asked
from email_platform.runs.explanation import Explanation, Fact

ASKED = Asked("accepted, then opened", 1, 2, "accepted", "mailed", frozenset({"delivered", "opened"}))
FOUND = Explanation(
    1,
    2,
    "accepted",
    "mailed: the provider accepted the message",
    (Fact("call", "call 0 of chunk 0: accepted"), Fact("event", "delivered"), Fact("event", "opened, by a proxy")),
)


def test_an_answer_with_the_verdict_the_words_and_every_event_is_right() -> None:
    assert ASKED.is_answered_by(FOUND)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(FOUND, verdict="rejected"),
        replace(FOUND, summary="in the audience; the call is still to be made"),
        replace(FOUND, facts=FOUND.facts[:2]),
        replace(FOUND, facts=(*FOUND.facts, Fact("event", "complained, abuse"))),
    ],
)
def test_another_verdict_other_words_a_missing_event_and_one_too_many_are_wrong(wrong: Explanation) -> None:
    assert not ASKED.is_answered_by(wrong)
