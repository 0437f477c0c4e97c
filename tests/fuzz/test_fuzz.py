"""A bounded run of every fuzz target, about 45 s in all on two busy cores; `make fuzz MINUTES=10` goes on for longer.

The inputs follow from a fixed seed: what fails here fails again.
"""

from __future__ import annotations

import pytest

from tests.fuzz import webhooks
from tests.fuzz.run import TARGETS, Result, replay, search
from tests.fuzz.target import Target

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_a_bounded_run_of_the_target_finds_nothing(target: Target) -> None:
    result = Result()
    replay(target, result)
    if result.failure is None:
        search(target, result, seed=1, inputs=target.bounded_inputs, may_go_on=lambda: True)
    assert result.failure is None, f"{result.content!r}: {result.failure!r}"
    assert result.inputs >= target.bounded_inputs // 2


def test_the_webhook_targets_own_requests_are_accepted_when_nothing_is_changed() -> None:
    webhooks.unchanged_seeds_are_accepted()


def test_every_folder_of_the_corpus_belongs_to_a_target() -> None:
    assert {path.parent.name for target in TARGETS for path in target.corpus} <= {target.name for target in TARGETS}
    assert all(target.corpus for target in TARGETS), "each target has kept inputs"
