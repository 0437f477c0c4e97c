"""Prints the findings, and writes them as a page with plots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.send.findings import Findings
from bench.send.whole_path import STAGES

PAGE = "benchmarks-send.md"


def goal_rows(findings: Findings) -> Iterator[tuple[str, str, str]]:
    """What was measured, the figure, and the goal."""
    for html_bytes, pairs in findings.sender.items():
        ours, bare = findings.processor_microseconds(html_bytes)
        size = f"{html_bytes // 1000} kB"
        first = pairs[0][0]
        yield f"sender / bare loop, {size}", f"{findings.ratio(html_bytes):.2f}", "at least 0.50"
        yield f"processor time a recipient, {size}", f"{ours:.0f} µs (bare loop {bare:.1f})", "at most 30 µs"
        yield (
            f"body of a call of {first.recipients / first.calls:.0f}, {size}",
            f"{first.body_bytes / first.calls / 1000:.0f} kB",
            "-",
        )
    for path, memory in findings.paths:
        if findings.sender:
            goal = "at most 2.0" if path.leads >= 1_000_000 else "-"
            yield f"whole path / sender's own time, {path.leads:,} leads", f"{findings.path_factor(path):.1f}", goal
        rate = path.leads / path.total_seconds
        yield f"recipients a second over the whole, {path.leads:,} leads", f"{rate:,.0f}", "-"
        most = max((size - findings.import_mb, kind) for kind, size in memory.items()) if memory else (0.0, "none")
        goal = "at most 300 MB" if path.leads >= 1_000_000 else "-"
        yield f"largest process over its imports, {path.leads:,} leads", f"{most[0]:.0f} MB ({most[1]})", goal
        yield (
            f"PostgreSQL rows and log bytes an email, {path.leads:,} leads",
            f"{path.row_writes / path.leads:.3f} rows, {path.wal_bytes / path.leads:.0f} B",
            "-",
        )
    growth = list(_growth(findings))
    if growth:
        yield "cost a lead above the fixed part, largest / smallest", f"{max(growth) / min(growth):.2f}", "at most 1.3"
    if findings.small is not None:
        small = findings.small
        yield "1,000 leads, queued to sent, alone", f"{small.alone_seconds:.1f} s", "at most 8 s"
        factor = small.behind_seconds / small.alone_seconds
        yield f"the same behind two of {small.large:,} / alone", f"{factor:.1f}", "at most 2.5"
    if findings.peer is not None and findings.sender:
        peer = findings.peer
        yield (
            "our sender / django-post-office (queue and send)",
            f"{findings.sender_rate() / peer.recipients_per_second:.0f} times",
            "-",
        )
        yield (
            "django-post-office: PostgreSQL rows and log bytes an email",
            f"{peer.row_writes / peer.emails:.1f} rows, {peer.wal_bytes / peer.emails:,.0f} B",
            "-",
        )


def _growth(findings: Findings) -> Iterator[float]:
    """Seconds a lead above the fixed part, from one size to the next."""
    for (smaller, _), (larger, _) in zip(findings.paths, findings.paths[1:], strict=False):
        yield (larger.total_seconds - smaller.total_seconds) / (larger.leads - smaller.leads)


def print_findings(findings: Findings) -> None:
    """The goals' table, and where the time of each campaign went."""
    table = Table("measured", "found", "goal", title=f"bench-send, scale {findings.scale}")
    for row in goal_rows(findings):
        table.add_row(*row)
    console = Console(width=120)
    console.print(table)
    if findings.paths:
        stages = Table("leads", *STAGES, "all", title="seconds from the queue to the reports")
        for path, _ in findings.paths:
            stages.add_row(
                f"{path.leads:,}", *(f"{path.seconds[name]:.1f}" for name in STAGES), f"{path.total_seconds:.1f}"
            )
        console.print(stages)
    console.print(f"{findings.cores} cores, load {findings.load_average:.1f}")


def write_page(findings: Findings, folder: Path) -> None:
    """The tables as a page, and two plots, under the docs folder."""
    lines = [
        "# Sending, measured",
        "",
        "Written by `make bench-send`, from one run on one machine. The ratios are of things that ran in turns in it.",
        f"Scale {findings.scale}, {findings.cores} cores.",
        "",
        "| measured | found | goal |",
        "| --- | --- | --- |",
        *(f"| {name} | {found} | {goal} |" for name, found, goal in goal_rows(findings)),
        "",
    ]
    if findings.paths:
        lines += [
            "Seconds from the queue to the reports, one stage after the other:",
            "",
            f"| leads | {' | '.join(STAGES)} | all |",
            f"| --- |{' ---: |' * (len(STAGES) + 1)}",
            *(
                f"| {path.leads:,} | {' | '.join(f'{path.seconds[name]:.1f}' for name in STAGES)} "
                f"| {path.total_seconds:.1f} |"
                for path, _ in findings.paths
            ),
            "",
            "![where the time goes](images/bench_send_path.png)",
            "",
        ]
        _plot_path(findings, folder / "images" / "bench_send_path.png")
    page = folder / PAGE
    kept = page.read_text(encoding="utf-8").partition("<!-- by hand -->")[2] if page.exists() else ""
    page.write_text("\n".join(lines) + "\n<!-- by hand -->" + (kept or "\n"), encoding="utf-8")


def _plot_path(findings: Findings, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.7 + 0.8 * len(findings.paths)))
    labels = [f"{path.leads:,}" for path, _ in findings.paths]
    left = [0.0] * len(labels)
    for name in STAGES:
        shares = [path.seconds[name] / path.total_seconds * 100 for path, _ in findings.paths]
        axes.barh(labels, shares, left=left, label=name)
        left = [before + share for before, share in zip(left, shares, strict=True)]
    axes.set_xlabel("share of the time from the queue to the reports, %")
    axes.set_ylabel("leads")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
