"""A bomb that the budget lets through meets the limits of its process, and ends with a sentence."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from typing import Any

import psutil
import pytest

from email_platform.content.apart import RenderingLimits
from email_platform.content.problem import ContentProblem
from email_platform.content.renderer import TemplateRenderer
from email_platform.domain.campaigns import CampaignContent
from email_platform.errors import InvalidTemplateError
from tests.unit.content.test_budget import BOMBS, LEAD
from tests.unit.content.test_pieces import SIGNER, manifest, table
from tests.unit.content.test_render import OneObjectStore

pytestmark = pytest.mark.slow

# The budget switched off in the process that renders: nothing is drawn, and no value is too long.
WITHOUT_BUDGET = """
import sys
from email_platform.content import budget, metering, rendering_process, sandbox
budget.Budget.draw = budget.Budget.write = budget.Budget.touch = lambda *_, **__: None
for module in (budget, metering, sandbox):
    module.MAXIMUM_VALUE_CHARACTERS = 10**12
metering.bounded = sandbox.bounded = lambda value: value
sys.exit(rendering_process.main())
"""
ORDINARY = "{% if first_name == 'Ada' %}{{ first_name | upper }}{% else %}{{ 1 // 0 }}{% endif %}"


def limits(**values: Any) -> RenderingLimits:
    return RenderingLimits(**values, program=("-c", WITHOUT_BUDGET))


def check(html: str, apart: RenderingLimits | None, *leads: dict[str, Any]) -> Any:
    of = CampaignContent("s", html, "")
    rows = table(*leads or (LEAD,))
    store: Any = OneObjectStore(rows)
    return TemplateRenderer(manifest(of), SIGNER, apart=apart).check(store, manifest(of))


def children() -> list[psutil.Process]:
    return psutil.Process(os.getpid()).children(recursive=True)


def test_a_bomb_of_time_ends_the_check_with_a_sentence_that_names_the_lead_and_the_setting() -> None:
    before = children()
    with pytest.raises(InvalidTemplateError, match=r"lead 100 takes more than 2 s.*EMAIL_PLATFORM_RENDER_SECONDS"):
        check(BOMBS["two loops with a long body"], limits(seconds=2.0))
    assert children() == before, "the process is gone"


def test_a_bomb_of_memory_ends_the_check_with_a_sentence() -> None:
    with pytest.raises(InvalidTemplateError, match=r"too large|ended its process"):
        check(BOMBS["texts added"], limits(memory_megabytes=128))
    assert check(ORDINARY, limits(memory_megabytes=128)).problem_rows == 0, "that much is enough for a message"


def test_a_bomb_in_what_all_recipients_share_ends_the_check_too() -> None:
    bomb = "{% set a = campaign.from_name %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}"
    with pytest.raises(InvalidTemplateError, match=r"too large|ended its process"):
        check(bomb, limits(memory_megabytes=128))


def test_a_process_that_dies_is_a_sentence_and_not_a_wait() -> None:
    dying = WITHOUT_BUDGET.replace(
        "sys.exit(", "rendering_process._outcomes = lambda *_: __import__('os').abort()\nsys.exit("
    )
    with pytest.raises(InvalidTemplateError, match=r"lead 100 ended its process \(signal 6\)"):
        check(ORDINARY, RenderingLimits(program=("-c", dying)))


def test_rendering_apart_finds_and_makes_exactly_what_rendering_here_does() -> None:
    leads = [LEAD, LEAD | {"first_name": "Eve"}, LEAD | {"first_name": "Ada"}] * 5
    apart = RenderingLimits()
    assert check(ORDINARY, apart, *leads) == check(ORDINARY, None, *leads)
    of = CampaignContent("{{ first_name | upper }}", ORDINARY + "{{ unsubscribe_url }}", "")
    rows = table(*leads)
    sampled = TemplateRenderer(manifest(of), SIGNER, apart=apart).sample(manifest(of), rows)
    assert sampled == TemplateRenderer(manifest(of), SIGNER).render(manifest(of), rows)
    assert sum(isinstance(values, ContentProblem) for values in sampled.values) == 5


# -- while sending ---------------------------------------------------------------------------------------------------


def sending(html: str, apart: RenderingLimits | None) -> TemplateRenderer:
    return TemplateRenderer(manifest(CampaignContent("s", html, "")), SIGNER, sending_apart=apart)


FOR_BOB = "{% if first_name == 'Bob' %}" + BOMBS["two loops with a long body"] + "{% else %}Hello{% endif %}"


def test_a_bomb_that_only_one_recipient_sets_off_ends_the_rendering_and_is_waited_for_once() -> None:
    before = children()
    ordinary, bob = LEAD | {"first_name": "Ada"}, LEAD | {"first_name": "Bob"}
    of = manifest(CampaignContent("s", FOR_BOB, ""))
    with closing(sending(FOR_BOB, limits(seconds=2.0, seconds_setting="EMAIL_PLATFORM_LEASE_SECONDS"))) as renderer:
        renderer.begin(of)
        assert not isinstance(renderer.render(of, table(ordinary)).values[0], ContentProblem)
        with pytest.raises(InvalidTemplateError, match=r"takes more than 2 s.*EMAIL_PLATFORM_LEASE_SECONDS") as first:
            renderer.render(of, table(bob))
        with pytest.raises(InvalidTemplateError) as again:
            renderer.render(of, table(ordinary))
        assert again.value is first.value
        assert children() == before, "the process is gone"


def test_while_sending_a_bomb_of_memory_is_a_sentence_and_a_process_that_ends_by_chance_is_replaced() -> None:
    before = children()
    texts = BOMBS["texts added"]  # of somebody who has a first name
    of = manifest(CampaignContent("s", texts, ""))
    nameless = table(LEAD | {"first_name": ""})
    with closing(sending(texts, limits(memory_megabytes=128))) as renderer:
        renderer.begin(of)
        expected = sending(texts, None).render(of, nameless)
        assert not isinstance(expected.values[0], ContentProblem)
        assert renderer.render(of, nameless) == expected
        (process,) = [each for each in children() if each not in before]
        process.terminate()  # as a service's stop would, which is for the process that asks
        assert renderer.render(of, nameless) == expected
        assert process in children(), "it went on"
        process.kill()  # as a machine that is short of memory would
        assert renderer.render(of, nameless) == expected
        (outcome,) = renderer.render(of, table(LEAD)).values
        assert isinstance(outcome, ContentProblem), "Python says that there is no memory, and the process goes on"
        assert "too large" in outcome.reason
    assert children() == before


def test_the_process_gets_no_secret_and_a_plain_message_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_PLATFORM_UNSUBSCRIBE_SECRET", "very-secret-value")
    given: list[dict[str, str]] = []
    real = subprocess.Popen

    def started(*arguments: Any, **options: Any) -> Any:
        given.append(options["env"])
        return real(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", started)
    assert check("Hello {{ first_name }}", RenderingLimits()).problem_rows == 0
    assert given == [], "look-ups alone start no process"
    check(ORDINARY, RenderingLimits())
    assert len(given) == 1
    assert "very-secret-value" not in str(given)
