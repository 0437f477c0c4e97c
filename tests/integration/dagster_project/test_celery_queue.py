"""How many steps wait for a worker, asked of a real Redis: a campaign whose steps wait there is not silent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster_celery.tasks import create_task
from redis import Redis as Client

from assets.celery_app import steps_in_queue, worker_app
from assets.celery_steps import BROKER_AWAY, RemoteStep, RunOnRecord, submitted
from email_platform.settings import Settings
from tests.integration.redis_process import Redis, running_redis

pytestmark = pytest.mark.integration
KEDA = Path(__file__).parents[3] / "deploy" / "kubernetes" / "workers" / "keda.yaml"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with running_redis(tmp_path_factory.mktemp("redis"), keeps_its_data=False) as started:
        yield started


@pytest.fixture
def app(redis: Redis, tmp_path: Path) -> Any:
    values = {
        "postgres_url": "postgresql://u:p@h/d",
        "s3_bucket": "bucket",
        "clickhouse_url": "http://u:p@h/d",
        "unsubscribe_secret": "0123456789abcdef",  # pragma: allowlist secret
        "steps": "celery",
        "celery_broker_url": redis.url,
        "state_folder": tmp_path,
    }
    app = worker_app(Settings.checked(values))
    app.conf.result_backend_transport_options["retry_policy"]["max_retries"] = 1
    app.conf.task_publish_retry_policy = {"max_retries": 1}
    if "execute_plan" not in app.tasks:  # Celery shares it with every application of a process
        create_task(app)
    yield app
    app.close()


def submit(app: Any) -> Any:
    """As dagster-celery hands over a step (`_submit_task`)."""
    return (
        app.tasks["execute_plan"]
        .si({}, {})
        .apply_async(priority=5, queue="dagster", routing_key="dagster.execute_plan")
    )


def test_steps_that_wait_are_counted_and_keda_counts_the_same_list(app: Any, redis: Redis) -> None:
    assert steps_in_queue(app) == 0, "an empty queue does not exist"
    for _ in range(3):
        submit(app)
    assert steps_in_queue(app) == 3
    (trigger,) = yaml.safe_load(KEDA.read_text(encoding="utf-8"))["spec"]["triggers"]
    with Client.from_url(redis.url) as client:
        assert client.llen(trigger["metadata"]["listName"]) == 3


def test_a_step_outlasts_its_broker_and_is_handed_over_once_it_is_back(app: Any, redis: Redis) -> None:
    run = RunOnRecord(lambda: True, lambda: None)
    step = RemoteStep(lambda: submit(app), run)
    redis.kill()
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            redis.start()

    try:
        assert not step.ready()
        with pytest.raises(BROKER_AWAY):
            steps_in_queue(app)
        assert submitted(lambda: submit(app), run, pause).state == "PENDING"
    finally:
        if len(pauses) < 2:
            redis.start()
    assert len(pauses) >= 2
    assert steps_in_queue(app) == 1, "what the first Redis held is gone with it"
    assert not step.ready()
