"""Counts that must agree, from the audience to the warehouse, and the lines that say whether they do.

Invariant (design, step 10): considered = eligible + excluded; eligible = accepted + rejected + unknown +
abandoned + not yet attempted; ledger = staged = loaded, by status; no duplicate (campaign, lead).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from email_platform.domain.manifest import Manifest
from email_platform.errors import AccountingError
from email_platform.sending.ledger import CampaignTotals
from email_platform.staging.delivery_rows import DELIVERY_STATUSES


@dataclass(frozen=True, slots=True)
class AccountingLine:
    """Two independently obtained counts under one name.

    Attributes:
        left, right: what was counted where, with the count.
    """

    name: str
    left: tuple[str, int]
    right: tuple[str, int]

    @property
    def holds(self) -> bool:
        """Whether the two counts are equal."""
        return self.left[1] == self.right[1]

    def __str__(self) -> str:
        sign = "=" if self.holds else "≠"
        return f"{self.name}: {self.left[0]} {self.left[1]:,} {sign} {self.right[0]} {self.right[1]:,}"


def ledger_lines(manifest: Manifest, totals: CampaignTotals, *, complete: bool) -> list[AccountingLine]:
    """The manifest against the ledger.

    Args:
        manifest: the frozen audience.
        totals: the ledger's counts.
        complete: the campaign says that it is sent, so that nothing may be planned, open or missing.
    """
    if not complete:
        return []
    return [
        AccountingLine(
            "every eligible lead came to an end",
            ("eligible in the manifest", manifest.eligible_rows),
            ("accepted + rejected + unknown + abandoned in the ledger", totals.ended),
        ),
        AccountingLine(
            "every chunk is finished",
            ("chunks of the manifest", manifest.chunk_count),
            ("finished in the ledger", totals.chunks_finished),
        ),
    ]


def warehouse_lines(
    manifest: Manifest,
    totals: CampaignTotals,
    staged_rows: Mapping[str, tuple[int, int]],
    delivery_counts: Mapping[str, int],
    exclusion_rows: int,
) -> list[AccountingLine]:
    """The ledger against the staged objects and the warehouse.

    Args:
        manifest: the frozen audience.
        totals: the ledger's counts; calls still open are in no staged object.
        staged_rows: by kind, rows staged and rows loaded (`StagingRegister.staged_rows`).
        delivery_counts: the warehouse's deliveries by status, each (campaign, lead) once, and ``duplicates``.
        exclusion_rows: the warehouse's excluded leads.
    """
    in_ledger = {
        "accepted": totals.accepted,
        "rejected": totals.rejected,
        "unknown": totals.unknown,
        "abandoned": totals.abandoned,
    }
    staged, loaded = staged_rows.get("delivery", (0, 0))
    lines = [
        AccountingLine(
            "every attempted recipient is staged",
            ("ended in the ledger", sum(in_ledger.values())),
            ("rows in the staging area", staged),
        ),
        AccountingLine("every staged row is loaded", ("staged", staged), ("loaded", loaded)),
    ]
    lines += [
        AccountingLine(
            f"{status} recipients",
            ("ledger", in_ledger[status]),
            ("warehouse", delivery_counts.get(status, 0)),
        )
        for status in DELIVERY_STATUSES
    ]
    lines += [
        AccountingLine("excluded leads", ("manifest", manifest.excluded_rows), ("warehouse", exclusion_rows)),
        AccountingLine(
            "no lead has two deliveries", ("duplicates", delivery_counts.get("duplicates", 0)), ("allowed", 0)
        ),
    ]
    return lines


def require_all(lines: Sequence[AccountingLine]) -> None:
    """Return silently where every line holds.

    Raises:
        AccountingError: lists every line that does not.
    """
    broken = [str(line) for line in lines if not line.holds]
    if broken:
        raise AccountingError("; ".join(broken))
