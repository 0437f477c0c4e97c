"""The Celery application of a campaign's steps: what the run's process and the workers must agree on.

Invariant: a step that a worker took is acknowledged when it has ended, never before, so none is lost with its worker.

Redis gives a message to another worker once its visibility timeout has passed, whether the first one lives or not
(Celery's *Using Redis*, "Visibility timeout"): it must be longer than the longest chunk. Nothing depends on that
moment. A step that comes twice finds its chunk leased or done, a step of a run that is over does not begin, and what
a dead machine held is resumed by `silent_campaigns` long before.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from dagster_celery.make_app import make_app

from email_platform.settings import Settings

QUEUE = "dagster"  # dagster-celery's own name, to which its routes send
SOCKET_SECONDS = 20.0
"""A network that was cut says nothing: without a limit, a process waits on the dead connection for ever."""
RUN_TRIES = 2
WORKER_TRIES = 300
"""How often, a second or two apart, a worker tries to leave a step's result: a broker may be away for minutes."""


def celery_settings(settings: Settings, result_tries: int) -> dict[str, Any]:
    """Celery's configuration, by the names of its *Configuration and defaults*.

    Args:
        settings: with a broker.
        result_tries: how often Redis is asked for a result, or given one, before that is an error.
    """
    connection = {
        "socket_timeout": SOCKET_SECONDS,
        "socket_connect_timeout": 5.0,
        "socket_keepalive": True,
        "retry_on_timeout": True,
        "health_check_interval": 10,
    }
    return {
        "task_acks_late": True,
        # A step whose process died is repeated by the run, so often and no more; by Redis it would be for ever.
        "task_reject_on_worker_lost": False,
        "task_track_started": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_expires": max(86_400, 2 * settings.celery_visibility_seconds),
        "worker_prefetch_multiplier": 1,
        # Its calls may be in flight; whoever is given the step meanwhile finds the chunk leased.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_proc_alive_timeout": 60.0,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {**connection, "visibility_timeout": settings.celery_visibility_seconds},
        "task_publish_retry_policy": {
            "max_retries": 60, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 2,
        },
        "redis_socket_timeout": SOCKET_SECONDS,
        "redis_socket_connect_timeout": 5.0,
        "redis_socket_keepalive": True,
        "redis_retry_on_timeout": True,
        "result_backend_transport_options": {
            **connection,
            "retry_policy": {
                "max_retries": result_tries, "interval_start": 0.1, "interval_step": 0.5, "interval_max": 2,
            },
        },
    }  # fmt: skip


def broker_of(settings: Settings) -> str:
    """The broker's URL; settings with ``steps=celery`` have one."""
    if settings.celery_broker_url is None:  # `steps=processes`, where nobody asks
        raise AssertionError("the settings hold no broker")
    return settings.celery_broker_url.get_secret_value()


def worker_app(settings: Settings) -> Celery:
    """The workers' application, without tasks."""
    url = broker_of(settings)
    app = make_app({"broker": url, "backend": url})
    app.conf.update(celery_settings(settings, WORKER_TRIES))
    return app


def steps_in_queue(app: Celery) -> int:
    """How many steps, of all campaigns, wait for a worker."""
    with app.connection_for_read() as connection, connection.channel() as channel:
        try:
            return int(channel.queue_declare(QUEUE, passive=True).message_count)
        except connection.channel_errors:  # in Redis an empty queue does not exist
            return 0
