"""Which table a staged object goes to, and which objects go there together.

Invariant: an object that has no table is refused before any of it is read, and no group holds objects of two
kinds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby

from email_platform.adapters.clickhouse.targets import TARGETS, Target
from email_platform.domain.ports import StagedObject
from email_platform.errors import ObjectQuarantinedError

GROUP_OBJECTS = 64
GROUP_ROWS = 400_000  # one block: about 100 MB of memory in ClickHouse
GROUPS_AT_ONCE = 2
# A group of its own costs 60 to 110 ms of CPU, as much as inserting 40,000 rows: fewer than so many are not split.
SPLIT_ROWS = 100_000

_CAMPAIGN_IN_KEY = re.compile(r"(?:^|/)campaign=(\d+)/")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9/=_.:-]+")


@dataclass(frozen=True, slots=True)
class CheckedObject:
    """An object that may go to its table.

    Attributes:
        campaign_id: of all its rows, taken from its key; None where the kind belongs to no campaign.
    """

    staged: StagedObject
    target: Target
    campaign_id: int | None


def deduplication_token(group: Sequence[CheckedObject]) -> str:
    """The group's token; of a single object its own."""
    tokens = [one.staged.deduplication_token for one in group]
    return tokens[0] if len(tokens) == 1 else sha256("\n".join(tokens).encode()).hexdigest()


def named(keys: Sequence[str]) -> str:
    """What an error calls these objects."""
    return keys[0] if len(keys) == 1 else f"one of {len(keys)} objects"


def checked_object(staged: StagedObject) -> CheckedObject:
    """The object with its table.

    Raises:
        ObjectQuarantinedError: no table takes it.
    """
    target = TARGETS.get(staged.kind)
    if target is None:
        raise ObjectQuarantinedError(f"{staged.key}: no table takes objects of kind {staged.kind!r}")
    if not _PLAIN_KEY.fullmatch(staged.key):
        raise ObjectQuarantinedError(f"{staged.key!r}: not a key of the staging area")
    if not target.of_campaign:
        return CheckedObject(staged, target, None)
    match = _CAMPAIGN_IN_KEY.search(staged.key)
    if match is None:
        raise ObjectQuarantinedError(f"{staged.key}: the key names no campaign")
    return CheckedObject(staged, target, int(match[1]))


def groups_of(objects: Sequence[StagedObject]) -> Iterator[list[StagedObject]]:
    """Objects of one kind together, in order; objects that would fit one group are split where that pays."""
    for _, of_kind in groupby(sorted(objects, key=lambda staged: staged.kind), key=lambda staged: staged.kind):
        waiting = list(of_kind)
        fair_share = sum(staged.rows for staged in waiting) // GROUPS_AT_ONCE + 1
        most_rows = min(GROUP_ROWS, max(SPLIT_ROWS, fair_share))
        group: list[StagedObject] = []
        for staged in waiting:
            if group and (len(group) >= GROUP_OBJECTS or sum(one.rows for one in group) + staged.rows > most_rows):
                yield group
                group = []
            group.append(staged)
        yield group
