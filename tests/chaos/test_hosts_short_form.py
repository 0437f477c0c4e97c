"""`make chaos-hosts` in its short form: one schedule. It takes minutes and network namespaces, so CI leaves it out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.host_deaths import MOVES, Disturbance, HostSchedule, hosts_world
from tests.chaos.hosts import why_no_hosts

SCHEDULE = HostSchedule(1, False, "hold", 600, (Disturbance("host killed", 0.2, 0, 5.0),))


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.hosts
@pytest.mark.timeout(900)
def test_the_invariant_holds_when_a_host_of_workers_is_killed(tmp_path: Path) -> None:
    reason = why_no_hosts()
    if reason is not None:
        pytest.skip(reason)
    with hosts_world(tmp_path) as world:
        recovered = world.run(SCHEDULE)  # raises where the invariant does not hold
        assert recovered.struck == SCHEDULE.disturbances


def test_many_schedules_in_a_row_make_every_move_and_a_seed_stays_what_it_is() -> None:
    assert {one.move for seed in range(1, 21) for one in HostSchedule.of(seed).disturbances} == set(MOVES)
    assert HostSchedule.of(7) == HostSchedule.of(7)
