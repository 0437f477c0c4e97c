"""The chaos suite's short form for CI: seeded schedules of deaths and faults on the real parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.schedule import POINTS, Schedule
from tests.chaos.world import chaos_world

SEEDS = (
    3,  # an orphan stopped in the ledger's transaction kept its successor waiting for ever
    185,  # an orphan stopped between its intents and their calls left them unmade in a finished chunk
    *range(1001, 1003),
)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_invariant_holds_after_seeded_deaths_and_faults(tmp_path: Path) -> None:
    with chaos_world(tmp_path) as world:
        for seed in SEEDS:
            world.run(Schedule.of(seed))  # raises with the schedule, whose seed replays it
        assert sum(times for name, times in world.did.items() if name.startswith("died ")) >= 2


def test_many_schedules_in_a_row_die_at_every_named_point() -> None:
    planned = {
        (disturbance.crash.when, disturbance.crash.part, disturbance.crash.operation)
        for seed in range(1, 201)
        for disturbance in Schedule.of(seed).disturbances
        if disturbance.crash is not None
    }
    assert planned >= set(POINTS)
    assert Schedule.of(7) == Schedule.of(7)
