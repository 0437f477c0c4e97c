"""Fault decisions repeat, are exclusive, and come as often as they were asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_platform.errors import ConfigurationError
from email_platform.local.provider_simulator.faults import Fault, FaultInjector, FaultPlan, decide_fault


@given(seed=st.integers(), ordinal=st.integers(min_value=0))
def test_the_same_seed_and_ordinal_meet_the_same_fault(seed: int, ordinal: int) -> None:
    plan = FaultPlan(seed=seed, probabilities={Fault.RESET_AFTER: 0.3, Fault.SLOW: 0.3})
    assert decide_fault(plan, ordinal) is decide_fault(plan, ordinal)


def test_each_fault_comes_about_as_often_as_its_probability_says() -> None:
    plan = FaultPlan(seed=7, probabilities={Fault.THROTTLE: 0.1, Fault.DROP_RESPONSE: 0.2})
    met = [decide_fault(plan, ordinal) for ordinal in range(20_000)]
    assert met.count(Fault.THROTTLE) == pytest.approx(2000, rel=0.1)
    assert met.count(Fault.DROP_RESPONSE) == pytest.approx(4000, rel=0.1)
    assert set(met) == {None, Fault.THROTTLE, Fault.DROP_RESPONSE}


def test_another_seed_meets_other_faults() -> None:
    first, second = (
        [decide_fault(FaultPlan(seed=seed, probabilities={Fault.SLOW: 0.5}), ordinal) for ordinal in range(64)]
        for seed in (1, 2)
    )
    assert first != second


def test_probability_one_meets_every_call_and_no_plan_meets_none() -> None:
    always = FaultPlan(probabilities={Fault.RESET_BEFORE: 1.0})
    assert {decide_fault(always, ordinal) for ordinal in range(100)} == {Fault.RESET_BEFORE}
    assert {decide_fault(FaultPlan(), ordinal) for ordinal in range(100)} == {None}


def test_the_switches_override_every_probability() -> None:
    probabilities = {Fault.SLOW: 1.0}
    assert decide_fault(FaultPlan(probabilities=probabilities, outage=True), 0) is Fault.OUTAGE
    assert decide_fault(FaultPlan(outage=True, refuse_account=True), 0) is Fault.REFUSE_ACCOUNT


def test_a_script_is_used_up_before_the_probabilities_apply_again() -> None:
    injector = FaultInjector(FaultPlan(probabilities={Fault.THROTTLE: 1.0}, script=(Fault.RESET_AFTER, None)))
    assert injector.plan.script == (Fault.RESET_AFTER, None)
    assert [injector.next_call() for _ in range(3)] == [Fault.RESET_AFTER, None, Fault.THROTTLE]
    assert injector.plan.script == ()


def test_steering_does_not_restart_the_ordinals() -> None:
    plan = FaultPlan(seed=3, probabilities={Fault.SLOW: 0.5})
    undisturbed, steered = FaultInjector(plan), FaultInjector(plan)
    expected = [undisturbed.next_call() for _ in range(40)]
    met = []
    for _ in range(40):
        met.append(steered.next_call())
        steered.steer(steered.plan)
    assert met == expected


def test_a_plan_survives_its_own_document() -> None:
    plan = FaultPlan(seed=5, probabilities={Fault.SLOW: 0.25}, script=(None, Fault.SLOW), slow_seconds=0.5)
    assert FaultPlan().changed_by(plan.as_document()) == plan


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([], "faults"),
        ({"nonsense": 1}, "nonsense"),
        ({"probabilities": {"explode": 0.1}}, "explode"),
        ({"probabilities": {"slow": 1.5}}, "slow"),
        ({"probabilities": {"slow": True}}, "slow"),
        ({"probabilities": {"slow": 0.6, "throttle": 0.6}}, "at most one fault"),
        ({"script": ["explode"]}, r"script\[0\]"),
        ({"script": "slow"}, "script"),
        ({"outage": 1}, "outage"),
        ({"seed": "x"}, "seed"),
        ({"slow_seconds": -1}, "slow_seconds"),
    ],
)
def test_a_wrong_plan_is_refused_by_the_name_of_its_field(document: object, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        FaultPlan().changed_by(document)
