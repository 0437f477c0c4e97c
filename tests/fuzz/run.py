"""`make fuzz`: all targets in turn until the time is up; what is found is kept in the corpus and named.

python -m tests.fuzz.run --minutes 10 [--seed 1] [--target NAME]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from rich.console import Console
from rich.table import Table

from tests.fuzz import conditions, endpoint, events, imports, templates, webhooks
from tests.fuzz.target import Target

TARGETS: tuple[Target, ...] = (
    *webhooks.TARGETS,
    *events.TARGETS,
    *conditions.TARGETS,
    *templates.TARGETS,
    *endpoint.TARGETS,
    *imports.TARGETS,
)
ROUND_INPUTS = 2_000
console = Console(highlight=False, soft_wrap=True)


@dataclass(slots=True)
class Result:
    """What trying one target came to.

    Attributes:
        inputs: tried, those of the corpus included.
        failure: of the smallest input that fails; None where none does.
        content: that input.
    """

    inputs: int = 0
    failure: BaseException | None = None
    content: bytes = b""


def failing(failure: BaseException) -> BaseException:
    """The failure itself, but for Ctrl-C: a panic of a library in Rust is a BaseException too."""
    if isinstance(failure, KeyboardInterrupt | SystemExit):
        raise failure
    return failure


def replay(target: Target, result: Result) -> None:
    """Try the kept inputs first."""
    for path in target.corpus:
        content = path.read_bytes()
        result.inputs += 1
        try:
            target.run(content)
        except BaseException as failure:
            result.failure, result.content = failing(failure), content
            return


def search(target: Target, result: Result, *, seed: int, inputs: int, may_go_on: Callable[[], bool]) -> None:
    """Try so many new inputs, fewer where the time is up; a failing one is made smaller."""

    @hypothesis_seed(seed)
    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
    )
    @given(target.inputs)
    def tried(content: bytes) -> None:
        if not may_go_on() and result.failure is None:
            return
        result.inputs += 1
        try:
            target.run(content)
        except BaseException as failure:
            result.failure, result.content = failing(failure), content  # the last one is the smallest
            raise

    try:
        tried()
    except BaseException as failure:
        failing(failure)
        if result.failure is None:
            raise AssertionError(f"{target.name}: the target itself failed") from failure


def fuzz(target: Target, *, seed: int, seconds: float) -> Result:
    """Replay the corpus, then try new inputs for so many seconds, or until one fails."""
    result = Result()
    ends_at = time.monotonic() + seconds
    replay(target, result)
    for number in itertools.count():
        if result.failure is not None or time.monotonic() >= ends_at:
            return result
        search(
            target,
            result,
            seed=seed * 1_000_003 + number,
            inputs=ROUND_INPUTS,
            may_go_on=lambda: time.monotonic() < ends_at,
        )
    raise AssertionError("unreachable")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=int(time.time()))
    options.add_argument("--target", action="append", choices=[target.name for target in TARGETS])
    chosen = options.parse_args()
    webhooks.unchanged_seeds_are_accepted()
    targets = [target for target in TARGETS if not chosen.target or target.name in chosen.target]
    table = Table("target", "inputs", "found", title=f"fuzzing, seed {chosen.seed}")
    found = 0
    for target in targets:
        result = fuzz(target, seed=chosen.seed, seconds=chosen.minutes * 60 / len(targets))
        shown = "nothing"
        if result.failure is not None:
            found += 1
            shown = type(result.failure).__name__
            console.print(f"{target.name}: kept as {target.keep(result.content)}", style="red", markup=False)
            console.print("".join(traceback.format_exception(result.failure)[-6:]), markup=False)
        console.print(f"{target.name}: {result.inputs:,} inputs, {shown}", markup=False)
        table.add_row(target.name, f"{result.inputs:,}", shown)
    console.print(table)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
