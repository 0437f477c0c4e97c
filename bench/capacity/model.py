"""A linear model of each cost over what it is counted by, fitted by non-negative least squares.

Each cost is a sum of terms (per recipient, call, chunk, campaign and load), none of them negative. Residuals are
relative: a small shape counts as much as a large one. The solver is scipy's `nnls`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from bench.capacity.measuring import Measured

COSTS: Mapping[str, tuple[str, ...]] = {
    "sender_cpu_seconds": ("recipients", "calls", "chunks", "campaigns"),
    "postgres_cpu_seconds": ("recipients", "calls", "chunks", "campaigns"),
    "clickhouse_cpu_seconds": ("recipients", "chunks", "campaigns", "loads"),
    "postgres_commits": ("calls", "chunks", "campaigns", "loads"),
    "postgres_row_writes": ("calls", "chunks", "campaigns", "loads"),
    "postgres_wal_records": ("calls", "chunks", "campaigns", "loads"),
    "postgres_wal_bytes": ("recipients", "calls", "chunks", "campaigns"),
    "postgres_bytes": ("recipients", "calls", "chunks", "campaigns"),
    "s3_objects": ("chunks", "campaigns"),
    "s3_bytes": ("recipients", "chunks", "campaigns"),
    "clickhouse_parts": ("chunks", "loads"),
    "clickhouse_bytes": ("recipients", "chunks", "loads"),
    "event_log_rows": ("chunks", "campaigns"),
    "event_log_bytes": ("chunks", "campaigns"),
    "run_cpu_seconds": ("chunks", "campaigns"),
}
"""What each cost may depend on."""


@dataclass(frozen=True, slots=True)
class Fit:
    """One cost's terms, and how far they are from what they were fitted to.

    Attributes:
        per: the cost of one of each unit.
        median_error: of the relative errors over the shapes of the fit.
    """

    per: Mapping[str, float]
    median_error: float

    def predict(self, units: Mapping[str, float]) -> float:
        """The cost of so many units."""
        return sum(each * units[name] for name, each in self.per.items())


def fit(measured: Sequence[Measured]) -> dict[str, Fit]:
    """A fit of each cost that was measured.

    Raises:
        ValueError: a cost was measured fewer times than it has terms, so that nothing would be left to judge it by.
    """
    fits = {}
    for name, terms in COSTS.items():
        known = [(one.shape.units, one.costs[name]) for one in measured if one.costs.get(name, 0) > 0]
        if not known:
            continue
        if len(known) < len(terms):
            raise ValueError(f"{name}: {len(known)} measured shapes for {len(terms)} terms; measure more shapes")
        values = np.array([value for _, value in known])
        table = np.array([[units[term] for term in terms] for units, _ in known]) / values[:, None]
        scale = table.max(axis=0)
        found, _ = nnls(table / scale, np.ones(len(values)))
        per = dict(zip(terms, (found / scale).tolist(), strict=True))
        errors = np.abs(table @ (found / scale) - 1)
        fits[name] = Fit(per, float(np.median(errors)))
    return fits
