"""Steps of campaigns on Celery's workers: what is lost is repeated, and nobody is mailed twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from email_platform.adapters.postgres.tables import chunk, send_call
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.settings import Settings, variable_of
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads
from tests.integration.redis_process import Redis, running_redis

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_SECONDS = 200.0
LEADS = 160


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with running_redis(tmp_path_factory.mktemp("redis"), keeps_its_data=True) as started:
        yield started


@pytest.fixture
def environment(settings: Settings, redis: Redis) -> dict[str, str]:
    values = {
        "state_folder": settings.state_folder,
        "steps": "celery",
        "celery_broker_url": redis.url,
        "worker_slots": 1,
        "chunk_rows": 40,
        "lease_seconds": 4,
        "simulator_recipients_per_call": 5,
        "simulator_calls_per_second": 4,
    }
    return os.environ | {variable_of(name): str(value) for name, value in values.items()}


@contextmanager
def worker(environment: dict[str, str], folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """`email-platform worker`, once it takes steps; killed on leaving if it is still there."""
    program = "from email_platform.cli.app import app; app()"
    ready = folder / f"{name}.ready"
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "worker", "--ready-file", str(ready)],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(ready.exists, process)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(is_there: Callable[[], bool], process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_there():
        assert process.poll() is None, "ended before"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def run_of(campaign_id: int, folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    module = f"{__package__}.one_process_run"
    (folder / "dagster").mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", module, str(campaign_id), str(folder / "dagster"), "steps elsewhere"],
        env=environment, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def answered_calls(engine: Engine, campaign_id: int) -> int:
    with engine.connect() as connection:
        is_answered = (send_call.c.campaign_id == campaign_id) & (send_call.c.state == "accepted")
        return int(connection.execute(select(func.count()).where(is_answered)).scalar_one())


def process_with_a_lease(engine: Engine, campaign_id: int) -> int:
    holder = select(chunk.c.lease_holder).where(
        chunk.c.campaign_id == campaign_id, chunk.c.lease_holder.is_not(None), chunk.c.finished_at.is_(None)
    )
    with engine.connect() as connection:
        return int(str(connection.execute(holder.limit(1)).scalar_one()).split(":")[1])


def test_a_killed_slot_an_ending_worker_and_a_lost_broker_cost_a_run_nothing(
    settings: Settings, oltp_engine: Engine, redis: Redis, environment: dict[str, str], tmp_path: Path
) -> None:
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(LEADS))))
    with ExitStack() as stack:
        first = stack.enter_context(worker(environment, tmp_path, "first"))
        run = stack.enter_context(run_of(campaign_id, tmp_path, environment))
        wait_for(lambda: answered_calls(oltp_engine, campaign_id) >= 2, run)
        os.kill(process_with_a_lease(oltp_engine, campaign_id), signal.SIGKILL)
        after_kill = answered_calls(oltp_engine, campaign_id)
        wait_for(lambda: answered_calls(oltp_engine, campaign_id) >= after_kill + 2, run)
        first.terminate()
        first.wait(PATIENCE_SECONDS)
        assert answered_calls(oltp_engine, campaign_id) < LEADS // 5, "it did not stay until its chunk was done"
        stack.enter_context(worker(environment, tmp_path, "second"))
        before_loss = answered_calls(oltp_engine, campaign_id)
        wait_for(lambda: answered_calls(oltp_engine, campaign_id) > before_loss, run)
        redis.kill()
        while_away = answered_calls(oltp_engine, campaign_id)
        wait_for(lambda: answered_calls(oltp_engine, campaign_id) > while_away, run)
        redis.start()
        output, _ = run.communicate(timeout=PATIENCE_SECONDS)
    ended = json.loads(output.splitlines()[-1])
    assert ended["success"], ended
    assert ended["repeated"] >= 1, "the step of the ending worker was handed on"
    assert row_of(oltp_engine, campaign_id).status == "sent"
    accepted = AcceptedLog(Path(settings.state_folder) / "provider").summary(str(campaign_id))
    assert (accepted.accepted_rows, accepted.distinct_message_ids) == (LEADS, LEADS)
