"""Prints the findings, and writes them as a page with plots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.capacity.measuring import Measured
from bench.capacity.model import COSTS, Fit
from bench.capacity.needs import Assumptions, Needs, full_at, needs

PAGE = "capacity.md"
BY_HAND = "<!-- by hand -->"
VOLUMES = (10e6, 100e6, 1e9)
_ASSUMED = Assumptions()
NEED_LABELS: Mapping[str, tuple[str, float, str]] = {
    "emails_per_second": ("emails a second", 1, ",.0f"),
    "calls_per_second": ("provider calls a second", 1, ",.0f"),
    "sender_cores": ("cores that send", 1, ",.1f"),
    "step_processes": ("step processes (one core each)", 1, ",.0f"),
    "step_memory_bytes": ("their memory, GB", 1e9, ",.1f"),
    "postgres_cores": ("PostgreSQL: cores", 1, ",.1f"),
    "postgres_commits_per_second": ("PostgreSQL: commits a second", 1, ",.0f"),
    "wal_bytes_per_second": ("PostgreSQL: log without full pages, MB a second", 1e6, ",.2f"),
    "wal_bytes_per_day": ("PostgreSQL: the same, GB a day", 1e9, ",.1f"),
    "ledger_rows_per_day": ("ledger rows a day, M", 1e6, ",.2f"),
    "ledger_bytes_kept": (f"ledger and registers kept {_ASSUMED.ledger_days} days, GB", 1e9, ",.0f"),
    "reservations_per_second": ("limiter: reservations a second, one account", 1, ",.0f"),
    "s3_objects_per_day": ("S3: objects a day", 1, ",.0f"),
    "s3_bytes_per_day": ("S3: GB a day", 1e9, ",.1f"),
    "clickhouse_cores": ("ClickHouse: cores for loads", 1, ",.2f"),
    "clickhouse_bytes_per_day": ("ClickHouse: GB a day, delivery and exclusion", 1e9, ",.1f"),
    "event_log_rows_per_day": ("Dagster: event-log rows a day", 1, ",.0f"),
    "event_log_bytes_kept": (f"Dagster: event log kept {_ASSUMED.run_days} days, GB", 1e9, ",.1f"),
    "dagster_cores": ("Dagster's own cores in the steps", 1, ",.2f"),
}
"""What is shown of the needs: words, the unit in which, and how."""


@dataclass(frozen=True, slots=True)
class Findings:
    """All figures of one run.

    Attributes:
        measured: what the model was fitted to.
        held_out: what it was not.
        wal_bytes_with_full_pages: of the first held-out shape, measured once more with full pages in the log.
        reservations_ceiling: transactions a second of the limiter on one account, by the clock.
    """

    measured: Sequence[Measured]
    held_out: Sequence[Measured]
    fits: Mapping[str, Fit]
    wal_bytes_with_full_pages: float
    reservations_ceiling: float
    cores: int
    load_average: float

    @property
    def step_pss_bytes(self) -> float:
        """The most that a process that sends held."""
        return max(one.costs.get("step_pss_bytes", 0.0) for one in (*self.measured, *self.held_out))

    def volumes(self) -> list[Needs]:
        """Of each volume of the page."""
        return [needs(volume, self.fits, self.step_pss_bytes) for volume in VOLUMES]

    def full_at(self) -> dict[str, float]:
        """Emails a day at which each single thing is full."""
        return full_at(self.fits, self.step_pss_bytes, self.reservations_ceiling)

    def checks(self) -> Iterator[tuple[str, float, float]]:
        """Name, predicted and measured of each cost of what was not in the fit."""
        for one in self.held_out:
            for name, known in self.fits.items():
                if name in one.costs:
                    yield name, known.predict(one.shape.units), one.costs[name]

    def as_document(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "cores": self.cores,
            "load_average": self.load_average,
            "measured": [{"units": one.shape.units, "costs": dict(one.costs)} for one in self.measured],
            "fits": {
                name: {"per": dict(each.per), "median_error": each.median_error} for name, each in self.fits.items()
            },
            "held_out": [
                {"name": name, "predicted": predicted, "measured": found} for name, predicted, found in self.checks()
            ],
            "wal_bytes_with_full_pages": self.wal_bytes_with_full_pages,
            "reservations_per_second": self.reservations_ceiling,
            "step_pss_bytes": self.step_pss_bytes,
            "assumptions": asdict(_ASSUMED),
            "needs": [each.figures() for each in self.volumes()],
            "full_at_emails_per_day": self.full_at(),
        }


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def fit_rows(findings: Findings) -> Iterator[tuple[str, ...]]:
    """The fitted terms of each cost."""
    for name, known in findings.fits.items():
        terms = [f"{_short(each)} a {term[:-1]}" for term, each in known.per.items() if each]
        yield name, " + ".join(terms), f"{known.median_error:.0%}"


def check_rows(findings: Findings) -> Iterator[tuple[str, ...]]:
    """Predicted beside measured of what was not in the fit."""
    for name, predicted, found in findings.checks():
        error = f"{predicted / found - 1:+.0%}" if found > 0 else "-"
        yield name, _short(predicted), _short(found), error


def need_rows(findings: Findings) -> Iterator[tuple[str, ...]]:
    """What each volume needs."""
    volumes = [each.figures() for each in findings.volumes()]
    for name, (label, unit, form) in NEED_LABELS.items():
        yield label, *(format(each[name] / unit, form) for each in volumes)


def print_findings(findings: Findings) -> None:
    """All tables on the terminal."""
    console = Console(width=150)
    for title, head, rows in _tables(findings):
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _tables(findings: Findings) -> Iterator[tuple[str, tuple[str, ...], Iterator[tuple[str, ...]]]]:
    yield "The model", ("cost", "fitted", "median error in the fit"), fit_rows(findings)
    yield "A point that was not in the fit", ("cost", "predicted", "measured", "error"), check_rows(findings)
    yield "What a day needs", ("of the busiest hour, if not of a day", "10 M", "100 M", "1 G"), need_rows(findings)
    full = ((name, f"{emails / 1e6:,.0f} M") for name, emails in findings.full_at().items())
    yield "Where it stops", ("there is one, and it is full at", "emails a day"), full


def write_page(findings: Findings, folder: Path) -> None:
    """The page and its plots; what is written by hand below its mark stays."""
    page = folder / PAGE
    by_hand = page.read_text(encoding="utf-8").partition(BY_HAND)[2] if page.exists() else "\n"
    lines = [
        "# Capacity",
        "",
        "Written by `make capacity`: a linear model, fitted by non-negative least squares to what campaigns of "
        f"{len(findings.measured)} shapes cost on the embedded engines ({findings.cores} cores, load "
        f"{findings.load_average:.0f} with other work), and what follows from it. Processor seconds, bytes and rows "
        "were counted, no time; only the limiter's ceiling is by the clock.",
        "",
        f"Assumed and not measured: campaigns of {_ASSUMED.campaign_recipients:,}, chunks of {_ASSUMED.chunk_rows:,}, "
        f"calls of {_ASSUMED.call_rows}; the busiest hour at {_ASSUMED.peak_factor:g} times the day's mean; cores "
        f"planned to be {_ASSUMED.busy_share:.0%} busy; {_ASSUMED.accounts} provider account; a load every "
        f"{_ASSUMED.load_seconds:g} s.",
        "",
    ]
    for title, head, rows in _tables(findings):
        lines += [f"## {title}", "", f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines.append("")
    lines += [
        "![needs by volume](images/capacity-needs.png)",
        "",
        "![predicted beside measured](images/capacity-fit.png)",
        "",
    ]
    without = findings.held_out[0].costs["postgres_wal_bytes"]
    lines += [
        "PostgreSQL's log is without the whole pages that it writes after each checkpoint, which depend on the size of "
        f"the tables and on the time between checkpoints: the point that was not in the fit wrote {without / 1e6:.1f} "
        f"MB without them, and {findings.wal_bytes_with_full_pages / 1e6:.1f} MB with them, right after a checkpoint.",
        "",
    ]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join([*lines, BY_HAND]) + by_hand, encoding="utf-8")
    _plot_fit(findings, folder / "images" / "capacity-fit.png")
    _plot_needs(findings, folder / "images" / "capacity-needs.png")


def _plot_fit(findings: Findings, file: Path) -> None:
    """Predicted over measured, each cost of each shape; the held-out ones stand out."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5))
    names = [name for name in COSTS if name in findings.fits]
    for label, many, colour, size in (
        ("in the fit", findings.measured, "tab:grey", 18), ("not in the fit", findings.held_out, "tab:red", 60),
    ):  # fmt: skip
        points = [
            (findings.fits[name].predict(one.shape.units) / one.costs[name], place)
            for one in many
            for place, name in enumerate(names)
            if one.costs.get(name, 0) > 0
        ]
        axes.scatter([x for x, _ in points], [y for _, y in points], s=size, color=colour, label=label)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted / measured")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def _plot_needs(findings: Findings, file: Path) -> None:
    """Cores by volume, and where each single thing is full."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5))
    volumes = [10 ** (6.5 + step / 10) for step in range(0, 31)]
    found = [needs(volume, findings.fits, findings.step_pss_bytes) for volume in volumes]
    for name in ("sender_cores", "postgres_cores", "clickhouse_cores", "dagster_cores"):
        axes.loglog(volumes, [each.figures()[name] for each in found], label=NEED_LABELS[name][0])
    for place, (name, emails) in enumerate(findings.full_at().items()):
        if emails < volumes[-1]:
            axes.axvline(emails, linestyle="--", color=f"C{4 + place}", label=f"full: {name}")
    axes.set_xlabel("emails a day")
    axes.set_ylabel("cores in the busiest hour")
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
