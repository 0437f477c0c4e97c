"""Slices of keys without engines: every range once, whatever gaps the keys have, and no question for each gap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from email_platform.runs.lead_sync import RANGE_KEYS, SLICES, _ranges
from email_platform.runs.legacy_table import Fingerprint


class Keys:
    """A source that has these keys and counts the questions."""

    def __init__(self, keys: list[int]) -> None:
        self.keys, self.asked = sorted(keys), 0

    def next_key(self, key: int) -> int | None:
        self.asked += 1
        return next((one for one in self.keys if one >= key), None)


keys = st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 40 * RANGE_KEYS), max_size=30)


@given(keys, keys)
def test_each_range_that_either_side_has_is_visited_once_and_in_order(theirs: list[int], ours: list[int]) -> None:
    wanted = {key // RANGE_KEYS for key in [*theirs, *ours]}
    seen: list[int] = []
    for slice_index in range(SLICES):
        held = {key // RANGE_KEYS: Fingerprint(1, 1) for key in ours if key // RANGE_KEYS % SLICES == slice_index}
        source = Keys(theirs)
        found = list(_ranges(source, held, slice_index))  # type: ignore[arg-type]
        assert found == sorted(set(found))
        assert all(one % SLICES == slice_index for one in found)
        assert source.asked <= len(theirs) + 1
        seen += found
    assert wanted <= set(seen)
    assert len(seen) == len(set(seen))
