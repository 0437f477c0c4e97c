"""Why an address is suppressed.

Invariant: the words are those of the column `suppression.reason`. Nothing else is here, so that the command line can
offer them without waiting for pyarrow, which the events need.
"""

from __future__ import annotations

from typing import Literal, get_args

SuppressionReason = Literal["hard_bounce", "complaint", "unsubscribe", "manual"]
SUPPRESSION_REASONS: tuple[SuppressionReason, ...] = get_args(SuppressionReason)
