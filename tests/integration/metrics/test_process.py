"""The metrics as a part of the embedded stack: a process of its own that answers over HTTP, whoever is away."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import psutil
import pytest

from email_platform.local.stack.stack import clean_environment, running_stack
from email_platform.local.stack.written_state import statuses

pytestmark = pytest.mark.integration


def body_with(port: int, wanted: str) -> str:
    """The first answer with this line; the test's own time limit ends the wait."""
    while True:
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60)
        assert answer.status_code == 200
        if wanted in answer.text:
            return answer.text
        time.sleep(0.2)


def test_the_stack_s_metrics_answer_also_while_postgresql_is_away(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_stack(state, parts=("postgres", "s3", "metrics"), environ=clean_environment()) as settings:
        found = {part.name: part for part in statuses(state)}
        assert found["metrics"].address == f"http://127.0.0.1:{settings.metrics_port}/metrics"
        body = body_with(settings.metrics_port, 'email_platform_part_up{part="dagster"} 1.0')
        assert "\nemail_platform_up 1.0\n" in body
        secrets = (settings.postgres_password(), settings.s3_secret_access_key.get_secret_value())
        assert not any(secret in body for secret in secrets)
        process_id = found["postgres"].process_id
        assert process_id is not None
        psutil.Process(process_id).kill()  # the supervisor brings it back
        body_with(settings.metrics_port, "\nemail_platform_up 0.0\n")
        body_with(settings.metrics_port, "\nemail_platform_up 1.0\n")
