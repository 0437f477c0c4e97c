"""Does one part that hangs keep anybody from the others' answers?"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import pytest

from email_platform.adapters.health import machine
from email_platform.adapters.health.asking import Found, Question, Shared, ask_side_by_side
from email_platform.adapters.health.machine import CLOCK_SECONDS, Reading, clock, disk
from email_platform.adapters.health.serving import Health, ServingHealth
from email_platform.domain.figures import bytes_words, duration_words
from email_platform.errors import ConfigurationError, PartUnavailableError


@pytest.fixture
def hung() -> Iterator[Callable[[], str]]:
    """Waits as for a part that accepts connections and never answers; let go when the test ends."""
    released = threading.Event()

    def ask() -> str:
        released.wait(60)
        return "too late"

    yield ask
    released.set()


def failing(error: Exception) -> Callable[[], str]:
    def ask() -> str:
        raise error

    return ask


def test_a_part_that_hangs_is_said_not_to_answer_and_the_others_are_heard(hung: Callable[[], str]) -> None:
    questions = [
        Question("hangs", hung, "start it"),
        Question("answers", lambda: "fine"),
        Question("waits", lambda: Found("two wait", "decide")),
        Question("is away", failing(PartUnavailableError("nothing there")), "start it"),
        Question("refuses", failing(ConfigurationError("set THE_VARIABLE")), "start it"),
        Question("has a fault", failing(ValueError("secret")), "report it"),
    ]
    found = {one.part: one for one in ask_side_by_side(questions, within_seconds=0.2)}
    assert list(found) == ["hangs", "answers", "waits", "is away", "refuses", "has a fault"]
    assert (found["hangs"].fits, found["hangs"].says) == (False, "did not answer within 0.2 s")
    assert (found["answers"].fits, found["answers"].says, found["answers"].do) == (True, "fine", "")
    assert (found["waits"].fits, found["waits"].do) == (False, "decide")
    assert (found["is away"].says, found["is away"].do) == ("nothing there", "start it")
    assert (found["refuses"].says, found["refuses"].do) == ("set THE_VARIABLE", "")
    assert found["has a fault"].says == "the question itself failed: ValueError"


def test_a_shared_reading_is_made_once_and_its_failure_is_everybodys() -> None:
    made: list[int] = []

    def read() -> int:
        made.append(1)
        return 7

    shared = Shared(read)
    assert [one.says for one in ask_side_by_side([Question("a", lambda: str(shared.get()))] * 3)] == ["7"] * 3
    assert made == [1]
    broken = Shared(failing(PartUnavailableError("away")))
    assert [one.says for one in ask_side_by_side([Question("a", broken.get)] * 3)] == ["away"] * 3


def reading(ahead_seconds: float, coarse_seconds: float = 0.0) -> Reading:
    return Reading(datetime.fromtimestamp(1000.0, UTC), coarse_seconds, 1000.0 + ahead_seconds, 1000.1 + ahead_seconds)


@pytest.mark.parametrize("ahead", [CLOCK_SECONDS + 1, -CLOCK_SECONDS - 1])
def test_a_clock_that_is_away_is_wrong_and_one_within_its_own_step_is_not(ahead: float) -> None:
    assert "NTP" in clock(reading(ahead)).do
    assert clock(reading(ahead * 0.8)).do == ""
    assert clock(None) == Found("its answers have no time")
    # A Date of whole seconds leaves half a second open on either side.
    assert clock(reading(CLOCK_SECONDS + 0.4, coarse_seconds=1.0)).do == ""


def test_a_disk_says_what_is_large_and_is_wrong_when_it_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "data").write_bytes(b"x" * 3_000_000)
    (tmp_path / "embedded.env").write_text("x")
    found = disk(tmp_path)
    assert "free at" in found.says
    assert "postgres 2.9 MiB" in found.says
    monkeypatch.setattr(machine, "LEAST_FREE_BYTES", 1 << 60)
    assert "make room" in disk(tmp_path).do
    assert "free at" in disk(tmp_path / "missing").says  # temporary files need room too


def test_health_names_the_part_and_asks_it_no_second_time_while_it_hangs(hung: Callable[[], str]) -> None:
    asked: list[str] = []

    def counted() -> str:
        asked.append("S3")
        return hung()

    now = [0.0]
    asks = {"PostgreSQL": lambda: None, "S3": counted, "ClickHouse": failing(ConfigurationError("x"))}
    health = ServingHealth(asks, {"PostgreSQL"}, within_seconds=0.1, keep_seconds=5.0, monotonic=lambda: now[0])

    async def read_thrice() -> tuple[Health, Health, Health]:
        both = await asyncio.gather(health.read(), health.read())
        now[0] = 60.0
        return *both, await health.read()

    *both, later = asyncio.run(read_thrice())
    assert both[0] == both[1]
    assert both[0].status == HTTPStatus.OK
    assert both[0].body["parts"] == {"PostgreSQL": "answers", "S3": "does not answer", "ClickHouse": "refuses us"}
    assert (both[0].body["status"], later.body["status"], later.body["uptime_seconds"]) == (
        "degraded",
        "degraded",
        60.0,
    )
    assert asked == ["S3"]
    health.close()


def test_health_is_down_without_the_part_that_everything_needs() -> None:
    def read(essential: set[str]) -> Health:
        health = ServingHealth({"S3": failing(PartUnavailableError("x")), "PostgreSQL": lambda: None}, essential)
        with closing(health):
            return asyncio.run(health.read())

    down = read({"S3"})
    assert (down.status, down.body["status"]) == (HTTPStatus.SERVICE_UNAVAILABLE, "down")
    assert read({"PostgreSQL"}).body["status"] == "degraded"


def test_spans_and_sizes_read_well() -> None:
    spans = {0: "0 s", 2.5: "2.5 s", 59: "59 s", 60: "1 min", 3600: "1 h", 8000: "2 h 13 min", 400_000: "4 d 15 h"}
    assert {seconds: duration_words(seconds) for seconds in spans} == spans
    assert [bytes_words(size) for size in (0, 1023, 1024, 5 << 30, 3 << 40)] == [
        *("0 B", "1023 B", "1.0 KiB", "5.0 GiB", "3.0 TiB"),
    ]
