"""What becomes of an address can be predicted."""

from __future__ import annotations

import pytest

from email_platform.errors import ConfigurationError
from email_platform.local.provider_simulator.outcomes import (
    OutcomePlanner,
    OutcomeRates,
    is_valid_address,
)

_QUIET = OutcomeRates(bounce=0, soft_bounce=0, complaint=0, open=0, click=0, unsubscribe=0)


@pytest.mark.parametrize(
    ("address", "planned"),
    [
        ("success@simulator.amazonses.com", "delivered"),
        ("ooto@simulator.amazonses.com", "delivered"),
        ("bounce@simulator.amazonses.com", "bounced:hard:General"),
        ("Bounce+label7@Simulator.AmazonSES.com", "bounced:hard:General"),
        ("complaint+x@simulator.amazonses.com", "delivered,complained:abuse"),
        ("suppressionlist@simulator.amazonses.com", "bounced:hard:Suppressed"),
        ("ann+bounce@example.com", "bounced:hard:General"),
        ("ann+softbounce@example.com", "bounced:soft:MailboxFull"),
        ("ann+click@example.com", "delivered,opened,clicked"),
        ("bounce@example.com", "delivered"),
        ("ann+holiday@example.com", "delivered"),
    ],
)
def test_special_addresses_mean_what_they_say_whatever_the_rates(address: str, planned: str) -> None:
    planner = OutcomePlanner(1, _QUIET)
    assert planner.planned_events(address, planner.campaign_mask("c")) == planned


def test_ordinary_addresses_bounce_and_complain_at_the_configured_rates() -> None:
    planner = OutcomePlanner(
        5,
        OutcomeRates(bounce=0.1, soft_bounce=0.05, complaint=0.02, open=0.5, click=0.1, unsubscribe=0.01),
    )
    mask = planner.campaign_mask("c")
    plans = [planner.planned_events(f"lead{number}@example.com", mask) for number in range(20_000)]
    assert sum(plan.startswith("bounced:hard") for plan in plans) == pytest.approx(2000, rel=0.15)
    assert sum(plan.startswith("bounced:soft") for plan in plans) == pytest.approx(1000, rel=0.15)
    assert sum("complained" in plan for plan in plans) == pytest.approx(400, rel=0.2)
    reached = [plan for plan in plans if plan.startswith("delivered") and "complained" not in plan]
    assert sum("opened" in plan for plan in reached) == pytest.approx(len(reached) * 0.5, rel=0.1)
    assert sum("clicked" in plan for plan in reached) == pytest.approx(len(reached) * 0.1, rel=0.15)
    assert all("opened" in plan for plan in reached if "clicked" in plan)


def test_the_same_people_bounce_in_every_campaign_but_others_open() -> None:
    planner = OutcomePlanner(5, OutcomeRates(bounce=0.2, open=0.5))
    first, second = (
        [planner.planned_events(f"lead{number}@example.com", planner.campaign_mask(campaign)) for number in range(500)]
        for campaign in ("a", "b")
    )
    assert [plan.startswith("bounced") for plan in first] == [plan.startswith("bounced") for plan in second]
    assert ["opened" in plan for plan in first] != ["opened" in plan for plan in second]


@pytest.mark.parametrize("address", ["a@x.com", "a.b+c@mail.example.co", "o'neil@example.com", "a@xn--p1ai.xn--p1ai"])
def test_a_mailbox_at_a_domain_is_valid(address: str) -> None:
    assert is_valid_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "a",
        "a@",
        "@x.com",
        "a@x",
        "a b@x.com",
        "a@x..com",
        ".a@x.com",
        "a.@x.com",
        "a..b@x.com",
        "a@-x.com",
        "a@x.com\n",
        "a@x.com, b@x.com",
        "é@x.com",
        "a@b@x.com",
        "a" * 65 + "@x.com",
        "a@" + "x" * 250 + ".com",
    ],
)
def test_anything_else_is_not(address: str) -> None:
    assert not is_valid_address(address)


def test_rates_that_exceed_everyone_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at most 1"):
        OutcomeRates(bounce=0.6, soft_bounce=0.6)
