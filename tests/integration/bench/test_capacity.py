"""The capacity model runs to its end on tiny shapes; fit, needs and page are whole. Only counts are asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.capacity.measuring import Measured, Shape
from bench.capacity.model import COSTS, fit
from bench.capacity.needs import Assumptions, full_at, needs

PROJECT = Path(__file__).parents[3]
SHAPES = (
    *(Shape(1, 1_000, 500), Shape(2, 3_000, 1_000, 20), Shape(1, 9_000, 3_000), Shape(8, 400, 400, 10)),
    *(Shape(3, 5_000, 500, 25), Shape(1, 20_000, 10_000)),
)
TRUE = {"recipients": 0.0001, "calls": 0.002, "chunks": 0.05, "campaigns": 0.3, "loads": 0.1}


def costing(shape: Shape) -> Measured:
    """What the shape would cost, were the costs exactly those of `TRUE`."""
    return Measured(
        shape, {name: sum(TRUE[term] * shape.units[term] for term in terms) for name, terms in COSTS.items()}
    )


def test_a_shape_has_as_many_calls_and_chunks_as_the_platform_would_cut() -> None:
    assert Shape(2, 1_030, 500, 50).units == {
        "recipients": 2_060, "calls": 42, "chunks": 6, "campaigns": 2, "loads": 1,
    }  # fmt: skip


def test_the_fit_finds_the_costs_that_made_the_figures() -> None:
    fits = fit([costing(shape) for shape in SHAPES])
    assert set(fits) == set(COSTS)
    for name, known in fits.items():
        assert known.per == pytest.approx({term: TRUE[term] for term in COSTS[name]}, rel=1e-6), name
        assert known.predict(Shape(5, 7_000, 700).units) == pytest.approx(costing(Shape(5, 7_000, 700)).costs[name])


def test_fewer_shapes_than_terms_are_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match=r"3 measured shapes for 4 terms; measure more shapes"):
        fit([costing(shape) for shape in SHAPES[:3]])


def test_needs_grow_with_the_mail_and_the_ceiling_is_where_a_need_meets_it() -> None:
    fits = fit([costing(shape) for shape in SHAPES])
    small, large = (needs(emails, fits, 300e6) for emails in (10e6, 100e6))
    assert small.emails_per_second == pytest.approx(10e6 / 86_400 * 3)
    assert large.calls_per_second == pytest.approx(10 * small.calls_per_second)
    assert large.sender_cores > small.sender_cores
    assumed = Assumptions(postgres_cores=4)
    for name, emails in full_at(fits, 300e6, reservations_ceiling=100.0, assumed=assumed).items():
        at = needs(emails, fits, 300e6, assumed)
        expected = {
            "the row of one provider account in the limiter": (at.reservations_per_second, 100.0),
            "PostgreSQL's processor (4 cores)": (at.postgres_cores, 4.0),
            "PostgreSQL's log (100 MB/s)": (at.wal_bytes_per_second, 100e6),
            "ClickHouse's processor for loads (16 cores)": (at.clickhouse_cores, 16.0),
        }
        assert expected[name][0] == pytest.approx(expected[name][1])


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_script_measures_fits_and_writes_its_page_and_plots(tmp_path: Path) -> None:
    figures, docs = tmp_path / "figures.json", tmp_path / "docs"
    command = [sys.executable, "-W", "ignore", "-m", "bench.capacity", "--scale", "tiny"]
    ended = subprocess.run(
        [*command, "--results", str(figures), "--docs", str(docs)], capture_output=True, text=True, cwd=PROJECT
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert set(found["fits"]) == set(COSTS)
    assert {one["name"] for one in found["held_out"]} == set(COSTS)
    (objects,) = [one for one in found["held_out"] if one["name"] == "s3_objects"]
    assert objects["predicted"] == pytest.approx(objects["measured"]), "an object a chunk, two a campaign"
    assert [one["emails_per_day"] for one in found["needs"]] == [10e6, 100e6, 1e9]
    assert len(found["full_at_emails_per_day"]) == 4
    page = (docs / "capacity.md").read_text(encoding="utf-8")
    for heading in ("The model", "A point that was not in the fit", "What a day needs", "Where it stops"):
        assert f"## {heading}" in page
    assert all((docs / "images" / name).stat().st_size > 10_000 for name in ("capacity-fit.png", "capacity-needs.png"))
