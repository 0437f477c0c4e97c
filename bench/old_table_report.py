"""The benchmark's figures as a table, a plot and docs/benchmarks.md; the goals are judged here and nowhere else."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.old_table_questions import QUERIES

Results = dict[str, Any]

GOALS = (
    "loads of objects of 50,000 at least 50 times the old design's inserts of 50",
    "loads at least 80 % of the engine's raw insert from the same objects",
    "whole-table questions from marts, p95 under writes at the largest common size, at least 20 times better",
    "the same from raw rows at least 10 times better",
    "emails of one key: p95 at most 15 ms at rest at every size",
    "emails of one key: at the largest size at most 1.3 times the p95 at the largest common size",
    "a mart no slower than raw rows for the same question (p50 at rest, each size)",
    "refresh after 1 % new rows at most 5 % of a full build at the largest common size",
    "at most a fifth of the old table's disk space",
)
_KINDS = {query.name: query.kind for query in QUERIES}
_KEY_MS = 15.0
_NOT_MEASURED = ("not measured", False)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that so many are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report_stages(results: Results) -> list[tuple[str, Results]]:
    """The stages with times of reports, as they were measured."""
    return [(name, values) for name, values in results.items() if name.startswith("reports at")]


def is_under_writes(stage: Results) -> bool:
    """Whether both sides took rows meanwhile."""
    return bool(stage["at"] == "under writes")


def largest_common_stage(results: Results) -> Results:
    """Reports under writes at the largest size that both sides have."""
    both = [v for _, v in report_stages(results) if is_under_writes(v) and "old" in next(iter(v["ms"].values()))]
    largest: Results = max(both, key=lambda values: values["rows"], default={})
    return largest


def report_rows(results: Results) -> list[list[str]]:
    """One line per question, size and load: p50 and p95 of both sides, and the ratio of the p95."""
    lines = []
    for _, values in report_stages(results):
        for question, sides in values["ms"].items():
            new50, new95 = percentile(sides["new"], 0.5), percentile(sides["new"], 0.95)
            line = [f"{values['rows']:,}", str(values["at"]).split()[-1], question]
            if "old" in sides:
                old50, old95 = percentile(sides["old"], 0.5), percentile(sides["old"], 0.95)
                line += [f"{old50:,.1f}", f"{old95:,.1f}", f"{new50:,.1f}", f"{new95:,.1f}", ratio(old95 / new95)]
            else:
                line += ["-", "-", f"{new50:,.1f}", f"{new95:,.1f}", "-"]
            lines.append(line)
    return lines


def ratio(value: float) -> str:
    """Readable on both sides of 1."""
    return f"{value:,.1f}x" if value >= 0.95 else f"{value:,.2f}x"


def median_rates(results: Results) -> dict[str, float]:
    """Rows a second of each way to write, the median over the rounds."""
    return {name: statistics.median(values) for name, values in results["writes"]["rates"].items()}


def goals(results: Results) -> list[tuple[str, str, bool]]:
    """Each goal, what was measured, and whether it is met; a stage that is missing is named."""
    found = [*_of_loads(results), *_of_whole_tables(results), *_of_keys(results), _of_marts(results)]
    largest = largest_common_stage(results)
    rows = largest.get("rows", 0)
    refresh, full = results.get(f"refresh at {rows}"), results.get(f"full build at {rows}")
    if refresh and full:
        after, whole = statistics.median(refresh["after"]), full["seconds"]
        found.append((f"{after / whole:.1%} ({after:.1f} s of {whole:.1f} s)", after / whole <= 0.05))
    else:
        found.append(_NOT_MEASURED)
    size = results.get(f"size at {rows}", {})
    found.append((ratio(size["old"] / size["new"]), size["old"] / size["new"] >= 5) if "old" in size else _NOT_MEASURED)
    return [(goal, text, met) for goal, (text, met) in zip(GOALS, found, strict=True)]


def _of_loads(results: Results) -> list[tuple[str, bool]]:
    if "writes" not in results:
        return [_NOT_MEASURED] * 2
    rates = median_rates(results)
    loader = [rate for name, rate in rates.items() if name.startswith("platform")]
    raw = [rate for name, rate in rates.items() if name.startswith("engine")]
    shares = [mine / engine for mine, engine in zip(loader, raw, strict=True)]
    against_50 = [rate / rates["old: inserts of 50"] for rate in loader]
    return [
        (f"{ratio(against_50[-1])} (objects of 10,000: {ratio(against_50[0])})", against_50[-1] >= 50),
        (" and ".join(f"{one:.0%}" for one in shares) + " (objects of 10,000 and 50,000)", min(shares) >= 0.8),
    ]


def _of_whole_tables(results: Results) -> list[tuple[str, bool]]:
    found = []
    for wanted, is_mart in ((20, True), (10, False)):
        ratios = {
            question: percentile(sides["old"], 0.95) / percentile(sides["new"], 0.95)
            for question, sides in largest_common_stage(results).get("ms", {}).items()
            if _KINDS[question] == "whole table" and question.endswith("(mart)") == is_mart
        }
        each = ", ".join(f"{question} {ratio(one)}" for question, one in ratios.items())
        found.append((each, min(ratios.values()) >= wanted) if ratios else _NOT_MEASURED)
    return found


def _of_keys(results: Results) -> list[tuple[str, bool]]:
    common = largest_common_stage(results).get("rows", 0)
    at_rest = {v["rows"]: v["ms"] for _, v in report_stages(results) if v["at"] == "at rest"}
    if common not in at_rest:
        return [_NOT_MEASURED] * 2
    p95 = {
        rows: {name: percentile(sides["new"], 0.95) for name, sides in ms.items() if _KINDS[name] == "single key"}
        for rows, ms in at_rest.items()
    }
    text = "; ".join(
        f"{rows:,} rows: " + ", ".join(f"{name} {one:.1f}" for name, one in of_size.items())
        + f" (select 1: {percentile(at_rest[rows]['select 1']['new'], 0.95):.1f})"
        for rows, of_size in p95.items()
    )  # fmt: skip
    grown = {name: one / p95[common][name] for name, one in p95[max(p95)].items()}
    return [
        (text, max(one for of_size in p95.values() for one in of_size.values()) <= _KEY_MS),
        (", ".join(f"{name} {ratio(one)}" for name, one in grown.items()), max(grown.values()) <= 1.3),
    ]


def _of_marts(results: Results) -> tuple[str, bool]:
    slower = {}
    for _, stage in report_stages(results):
        for question, sides in stage["ms"].items():
            raw = stage["ms"].get(question.removesuffix(" (mart)"))
            if stage["at"] == "at rest" and question.endswith(" (mart)") and raw:
                one = percentile(sides["new"], 0.5) / percentile(raw["new"], 0.5)
                slower[f"{question.removesuffix(' (mart)')} at {stage['rows']:,}"] = one
    each = ", ".join(f"{question} {ratio(one)}" for question, one in slower.items())
    return (each, max(slower.values()) <= 1.0) if slower else _NOT_MEASURED


def write_lines(results: Results) -> list[list[str]]:
    """One line per way to write, against inserts of 50."""
    if "writes" not in results:
        return []
    rates = median_rates(results)
    base = rates["old: inserts of 50"]
    spread = results["writes"]["rates"]
    return [
        [name, f"{rate:,.0f}", f"{min(spread[name]):,.0f} to {max(spread[name]):,.0f}", ratio(rate / base)]
        for name, rate in rates.items()
    ]


def growth_lines(results: Results) -> list[list[str]]:
    """How much the p95 at rest grows from step to step, per question."""
    stages = [values for _, values in report_stages(results) if values["at"] == "at rest"]
    lines = []
    for before, after in itertools.pairwise(stages):
        for question in after["ms"]:
            line = [f"{before['rows']:,} to {after['rows']:,}", question]
            for side in ("old", "new"):
                if side in before["ms"].get(question, {}) and side in after["ms"][question]:
                    grown = percentile(after["ms"][question][side], 0.5) / percentile(before["ms"][question][side], 0.5)
                    line.append(ratio(grown))
                else:
                    line.append("-")
            lines.append(line)
    return lines


def size_lines(results: Results) -> list[list[str]]:
    """Megabytes on disk."""
    lines = []
    for name, values in results.items():
        if name.startswith("size at"):
            old, bare, new = values.get("old"), values.get("old_without_indexes"), values["new"]
            lines.append([
                f"{values['rows']:,}", f"{old / 1e6:,.0f}" if old else "-", f"{bare / 1e6:,.0f}" if bare else "-",
                f"{new / 1e6:,.0f}", ratio(old / new) if old else "-",
            ])  # fmt: skip
    return lines


def single_lines(results: Results) -> list[list[str]]:
    """Single rows: PostgreSQL's own field."""
    return [
        [name, f"{percentile(values, 0.5):.2f}", f"{percentile(values, 0.95):.2f}"]
        for name, values in results.get("single rows", {}).items()
    ]


REPORT_HEAD = ["rows", "at", "question", "old p50 ms", "old p95 ms", "new p50 ms", "new p95 ms", "old p95 / new p95"]
WRITE_HEAD = ["way", "rows/s (median)", "rounds", "against inserts of 50"]


def write_report(results: Results, docs: Path | None, console: Console) -> None:
    """Print the tables; with a folder, also write benchmarks.md and the plot there."""
    for head, lines in ((WRITE_HEAD, write_lines(results)), (REPORT_HEAD, report_rows(results))):
        table = Table(*head, box=None, pad_edge=False)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    for goal, found, met in goals(results):
        console.print(f"{'met   ' if met else 'MISSED'} {goal}: {found}", highlight=False)
    if docs is not None:
        (docs / "images").mkdir(parents=True, exist_ok=True)
        plot(results, docs / "images" / "benchmark.png")
        (docs / "benchmarks.md").write_text(page(results), encoding="utf-8")


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown; numbers to the right."""
    align = ["---:" if lines and any(c.isdigit() for c in lines[0][i][:1]) else "---" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, align, *lines))


def page(results: Results) -> str:
    """docs/benchmarks.md."""
    about = results["machine"]
    loads = [
        f"{values['rows']:,} rows: old {values['rows_written_per_second'].get('old', 0):,.0f} rows/s, "
        f"new {values['rows_written_per_second']['new']:,.0f} rows/s"
        for _, values in report_stages(results)
        if is_under_writes(values)
    ]
    notes = Path(__file__).with_name("old_table_notes.md").read_text(encoding="utf-8")
    judged = [[goal, found, "met" if met else "**missed**"] for goal, found, met in goals(results)]
    refreshed = [
        [
            f"{full['rows']:,}", f"{full['seconds']:.1f}", f"{refresh['new_rows']:,}",
            " and ".join(f"{one:.1f}" for one in refresh["after"]),
            f"{statistics.median(refresh['after']) / full['seconds']:.1%}",
        ]
        for name, refresh in results.items()
        if name.startswith("refresh at") and (full := results[f"full build at {refresh['rows']}"])
    ]  # fmt: skip
    written_into = f"{results['writes']['rows_in_table']:,}" if "writes" in results else "no"
    finished = results.get("finished", {"at": "stopped before its end"})["at"]
    engines = (
        f"PostgreSQL {about['postgres']} with shared_buffers {about['shared_buffers']}; "
        f"ClickHouse {about['clickhouse']} (chDB {about['chdb']})"
    )
    return f"""# Benchmarks

Made by `make bench` (scale `{about["scale"]}`, {finished}); do not edit by hand. One run, both sides
in turns on one machine: **the ratios are the result**, the absolute figures hold for this machine at this moment.

{about["cores"]} cores, {about["memory_gb"]} GB, {about["system"]}, Python {about["python"]}; {engines}; load average
at the start {about["load_at_start"]:.1f}.

## Goals

{markdown(["goal", "measured", ""], judged)}

![Reports and writes, both sides](images/benchmark.png)

## Writes

Into tables of {written_into} rows. The loader is the platform's own: in groups, it hashes each object,
inserts the group once under a token, and proves that every object's rows are there. The raw insert is the engine's
`insert ... select from s3()` of the same objects, all in one statement, into an empty table of the same definition with
all its indexes, with none of that.

{markdown(WRITE_HEAD, write_lines(results))}

## Reports

Milliseconds seen by the client. "Writes": while the old side takes inserts of 50 from one session as fast as it can,
and the new side stages and loads objects of 10,000 rows at about that rate. Written meanwhile, at
{"; ".join(loads)}.

{markdown(REPORT_HEAD, report_rows(results))}

## Growth from step to step

How many times longer the median took at rest.

{markdown(["step", "question", "old", "new"], growth_lines(results))}

## Size on disk

Megabytes; the new side after its merges.

{markdown(["rows", "old table", "of that without indexes", "new table", "old / new"], size_lines(results))}

## Single rows

Milliseconds.

{markdown(["operation", "p50", "p95"], single_lines(results))}

## Refresh of the reports

dbt, seconds of all models without dbt's own start.

{markdown(["rows", "full build", "new rows", "refreshes after them", "share of a full build"], refreshed)}

{notes}"""


def plot(results: Results, target: Path) -> None:
    """Bars of both sides: the p95 under writes at the largest common size, and rows a second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    largest = largest_common_stage(results)
    if not largest or "writes" not in results:
        return
    questions = list(largest["ms"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6), constrained_layout=True)
    for offset, side, colour, label in ((-0.2, "old", "#c44e52", "old table"), (0.2, "new", "#4c72b0", "platform")):
        heights = [percentile(largest["ms"][question][side], 0.95) for question in questions]
        bars = left.barh([i + offset for i in range(len(questions))], heights, 0.38, color=colour, label=label)
        left.bar_label(bars, fmt=lambda value: f"{value:,.{1 if value < 100 else 0}f}", padding=3, fontsize=8)
    left.set_yticks(range(len(questions)), questions)
    left.invert_yaxis()
    left.set_xscale("log")
    left.set_xlabel(f"p95 in ms at {largest['rows']:,} rows under writes (log)")
    left.margins(x=0.2)
    left.legend()
    rates = median_rates(results)
    colours = {"old": "#c44e52", "eng": "#8c8c8c", "pla": "#4c72b0"}
    bars = right.barh(list(rates), list(rates.values()), color=[colours[name[:3]] for name in rates])
    right.bar_label(bars, fmt=lambda value: f"{value:,.0f}", padding=3, fontsize=8)
    right.invert_yaxis()
    right.set_xscale("log")
    right.set_xlabel("rows written a second (log)")
    right.margins(x=0.2)
    figure.savefig(target, dpi=110)
    plt.close(figure)
