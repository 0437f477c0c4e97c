"""The embedded parts' common folder, and where Prometheus asks for the metrics."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from email_platform.settings.values import Port, PositiveSeconds


class StackSettings(BaseModel):
    """Where the embedded parts live.

    Attributes:
        state_folder: the embedded parts' data, logs and ``embedded.env``.
        start_timeout_seconds: how long one embedded part may take until it answers.
        metrics_port: where `email-platform metrics serve` listens.
    """

    state_folder: Path
    start_timeout_seconds: PositiveSeconds = 60.0
    metrics_port: Port = 18090
