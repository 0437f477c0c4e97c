"""What a chunk's plan is made of, and what it hands over.

Invariant: the records of a `Rewrite` go into one commit, or none of them does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from email_platform.sending.ledger import CallIntent, CallOutcome, Follows


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A call and its recipients.

    Attributes:
        offsets: within the chunk, in the call's order; a range where they are neighbours since the call was planned.
        follows, after_unknown: as in `CallIntent`.
    """

    call_index: int
    offsets: Sequence[int]
    follows: Follows | None = None
    after_unknown: bool = False


@dataclass(frozen=True, slots=True)
class PlanStart:
    """What the ledger leaves to be done.

    Attributes:
        to_make: indexes of the calls to be made, in order.
        outcomes: of calls that a process died at and that must not be repeated, to be recorded.
    """

    to_make: tuple[int, ...]
    outcomes: tuple[CallOutcome, ...]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A call whose recipients go elsewhere.

    Attributes:
        records: to be written in one commit with the call's own outcome or intent.
        sending: index of the call that takes its place at once; None where nobody is left to send to.
        planned: indexes of further calls, to be made later.
    """

    records: tuple[CallIntent, ...]
    sending: int | None = None
    planned: tuple[int, ...] = ()
