"""`make capacity`: what so many emails a day need.

    python -m bench.capacity [--scale tiny|full] [--results figures.json] [--docs docs]

Measures what campaigns of several shapes cost on the embedded engines, fits a linear model to it, predicts a shape that
was not in the fit and measures it, and computes from the model what 10 M, 100 M and 1 G emails a day need.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from bench.capacity.measuring import (
    RUN_CHUNK_ROWS,
    Campaigns,
    Measured,
    Shape,
    measure_runs,
    reservations_per_second,
    set_full_pages,
)
from bench.capacity.model import fit
from bench.capacity.report import Findings, print_findings, write_page
from bench.send.answering_server import answering_server
from email_platform.adapters.assembly import open_oltp
from email_platform.local.stack.stack import clean_environment, running_stack
from email_platform.settings import variable_of


@dataclass(frozen=True, slots=True)
class Scale:
    """What is measured.

    Attributes:
        shapes: for the fit; the first of all is a warm-up of its own.
        held_out: not in the fit.
        run_chunks: chunks of the Dagster runs.
        held_out_chunks: of a run that is not in the fit.
        reservations: of the limiter.
    """

    shapes: tuple[Shape, ...]
    held_out: Shape
    run_chunks: tuple[int, ...]
    held_out_chunks: int
    reservations: int


SCALES: Mapping[str, Scale] = {
    "tiny": Scale(
        (
            Shape(1, 400, 200), Shape(2, 200, 100), Shape(1, 600, 600, 10), Shape(4, 100, 100, 25), Shape(1, 900, 300),
        ),
        Shape(2, 500, 250),
        (1, 4),
        2,
        40,
    ),
    "full": Scale(
        (
            *(Shape(1, 5_000, 1_000), Shape(1, 20_000, 10_000), Shape(1, 20_000, 2_500), Shape(2, 5_000, 5_000)),
            *(Shape(8, 500, 500), Shape(1, 10_000, 10_000, 10), Shape(2, 5_000, 1_000, 20), Shape(4, 2_500, 500)),
            *(Shape(16, 250, 250), Shape(1, 40_000, 10_000)),
        ),
        Shape(3, 24_000, 6_000, 40),
        (1, 4, 12, 24),
        16,
        2_000,
    ),
}  # fmt: skip


def main() -> None:
    """Measure, fit, print, and write where asked."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--scale", choices=sorted(SCALES), default="full")
    options.add_argument("--results", type=Path, help="write the figures into this JSON file")
    options.add_argument("--docs", type=Path, help="write the page and its plots into this folder")
    chosen = options.parse_args()
    findings = measure(SCALES[chosen.scale])
    if chosen.results:
        chosen.results.write_text(json.dumps(findings.as_document(), indent=1), encoding="utf-8")
    print_findings(findings)
    if chosen.docs:
        write_page(findings, chosen.docs)


def measure(scale: Scale) -> Findings:
    """All figures, on engines of their own in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="bench-capacity-") as name, answering_server() as url:
        environment = clean_environment() | {
            variable_of("provider_url"): url,
            variable_of("provider_api_key"): "bench",
            variable_of("start_timeout_seconds"): "300",
        }
        with running_stack(Path(name) / "state", environ=environment) as settings:
            campaigns = Campaigns(settings)
            with open_oltp(settings) as engine:
                set_full_pages(engine, are_written=False)
            campaigns.measure(scale.shapes[0])  # pays for what a process and the engines load once
            measured: list[Measured] = []
            for shape in scale.shapes:
                measured.append(campaigns.measure(shape))
                print(f"  {shape}: {measured[-1].costs['sender_cpu_seconds']:.2f} s of the sender's processor")
            held_out = [campaigns.measure(scale.held_out)]
            with open_oltp(settings) as engine:
                set_full_pages(engine, are_written=True)
            with_full_pages = campaigns.measure(scale.held_out)
            of_runs = {
                variable_of("state_folder"): str(settings.state_folder),
                variable_of("chunk_rows"): str(RUN_CHUNK_ROWS),
            }
            with patch.dict(os.environ, environment | of_runs):
                measured += measure_runs(settings, scale.run_chunks)
                held_out += measure_runs(settings, (scale.held_out_chunks,))
            ceiling = reservations_per_second(settings, scale.reservations)
    wal_bytes = with_full_pages.costs["postgres_wal_bytes"]
    return Findings(measured, held_out, fit(measured), wal_bytes, ceiling, os.cpu_count() or 0, os.getloadavg()[0])


if __name__ == "__main__":
    main()
