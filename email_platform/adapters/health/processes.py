"""The platform's own processes: Dagster's daemon, the receivers and the API.

Invariant: nothing is started or changed, and a process whose address is not set on this machine is no failure.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any

import httpx
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError, ProgrammingError

from email_platform.adapters.health.asking import ANSWER_WITHIN_SECONDS, Found, Question, Shared
from email_platform.adapters.health.serving import HEALTH_PATH
from email_platform.adapters.health.work import WorkReading
from email_platform.adapters.postgres.engine import CONNECT_TIMEOUT_SECONDS
from email_platform.alerting.rules import DEAD_AFTER_SECONDS
from email_platform.domain.figures import duration_words
from email_platform.errors import PartUnavailableError
from email_platform.settings import Settings, variable_of

START_DAEMON = "start `dagster-daemon run -w workspace.yaml`, and see that the sensors are on"
START_RECEIVER = "start `email-platform events`; providers try their events again meanwhile"
START_API = "start `email-platform api`"
_BEATS = text("select (body::jsonb ->> 'timestamp')::float8 from daemon_heartbeats where body is not null")
_RUNS = text("select status, count(*) as runs from runs where status in ('QUEUED', 'STARTED') group by status")
_ANSWER_SECONDS = ANSWER_WITHIN_SECONDS - 2.0


def process_questions(reading: Shared[WorkReading], receiver_url: str | None, api_url: str | None) -> list[Question]:
    """Dagster's daemon, the receivers' looks, and whether receiver and API answer.

    Args:
        reading: what PostgreSQL knows of them.
        receiver_url, api_url: where this machine reaches them; None where it is not set.
    """
    receiver, api = variable_of("receiver_url"), variable_of("api_url")
    return [
        Question("Dagster's daemon", lambda: _looked(reading.get(), "dagster", START_DAEMON), START_DAEMON, "process"),
        Question(
            "receiver's watch", lambda: _looked(reading.get(), "receiver", START_RECEIVER), START_RECEIVER, "process"
        ),
        Question("receiver", lambda: _serves(receiver_url, receiver, START_RECEIVER), START_RECEIVER, "process"),
        Question("API", lambda: _serves(api_url, api, START_API), START_API, "process"),
    ]


def dagster_question(settings: Settings) -> Question:
    """Every daemon of Dagster, and its queue of runs, from Dagster's own storage."""
    return Question("Dagster's daemons and runs", lambda: _daemons(settings), START_DAEMON, "process")


def _looked(found: WorkReading, host: str, do: str) -> Found:
    """When a host of the watch looked last: Dagster's sensor `operator_needed`, or a thread of a receiver."""
    beat_at: datetime | None = found.backlog.beats.get(host)
    if beat_at is None:
        return Found("has not looked for alerts yet: none has run so far")
    seconds = max(0.0, (found.at - beat_at).total_seconds())
    says = f"looked for alerts {duration_words(round(seconds))} ago"
    return Found(says, do if seconds > DEAD_AFTER_SECONDS else "")


def _serves(url: str | None, variable: str, do: str) -> Found:
    if url is None:
        return Found(f"not asked: none runs here, and {variable} is not set")
    try:
        answer = httpx.get(url.rstrip("/") + HEALTH_PATH, timeout=_ANSWER_SECONDS, trust_env=False)
        health = answer.json()
    except httpx.TimeoutException:
        raise PartUnavailableError(f"{url} accepts the connection and does not answer") from None
    except (httpx.HTTPError, httpx.InvalidURL):
        raise PartUnavailableError(f"nothing answers at {url}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        health = None
    if not isinstance(health, dict) or not isinstance(health.get("parts"), dict):
        raise PartUnavailableError(f"what answers at {url} is something else (status {answer.status_code})")
    return _said(url, answer.status_code, health, do)


def _said(url: str, status: int, health: Mapping[str, Any], do: str) -> Found:
    up = health.get("uptime_seconds")
    says = f"serves at {url}" + (f", up {duration_words(round(up))}" if isinstance(up, int | float) else "")
    missing = [f"{part} {answer}" for part, answer in health["parts"].items() if answer != "answers"]
    if missing:
        return Found(f"{says}; it says: {', '.join(missing)}", f"see {', '.join(one.split()[0] for one in missing)}")
    return Found(says, "" if status == HTTPStatus.OK else do)


def _daemons(settings: Settings) -> Found:
    """Read from the tables of Dagster's storage: opening an instance needs DAGSTER_HOME and takes seconds.

    They are Dagster 1.13's: `daemon_heartbeats.body`, a JSON document whose `timestamp` is in seconds since 1970, and
    `runs.status`. The newest beat counts: a daemon that a release of Dagster gave up leaves its row behind.
    """
    url = make_url(settings.dagster_postgres_url.get_secret_value())
    engine = create_engine(url, connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS})
    try:
        with engine.connect() as connection:
            beats: Sequence[float] = connection.execute(_BEATS).scalars().all()
            runs = {row.status: int(row.runs) for row in connection.execute(_RUNS)}
    except OperationalError:  # not chained: a driver's message may quote the URL
        runs = None
    except ProgrammingError:
        return Found("Dagster's storage has no tables yet: no process of it has run so far")
    finally:
        engine.dispose()
    if runs is None:
        raise PartUnavailableError(f"{url.host}:{url.port}/{url.database} does not take the connection")
    waiting = f"{runs.get('QUEUED', 0):,} runs wait, {runs.get('STARTED', 0):,} are at work"
    if not beats:
        return Found(f"no daemon has run so far; {waiting}")
    seconds = max(0.0, time.time() - max(beats))
    says = f"{len(beats)} daemons, the newest beat {duration_words(round(seconds))} ago; {waiting}"
    return Found(says, START_DAEMON if seconds > DEAD_AFTER_SECONDS else "")
