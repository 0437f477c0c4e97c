"""Dagster's runs and the reports that they refresh."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from email_platform.settings.values import Port, PositiveFloat, PositiveInt


class RunSettings(BaseModel):
    """How Dagster works.

    Attributes:
        dagster_port: of the UI on a bare machine.
        max_concurrent_runs: how many Dagster runs go side by side. It comes into ``dagster.yaml`` when that file is
            written: by `email-platform up` and `email-platform dagster-yaml`.
        one_process_rows: up to so many recipients a campaign's steps run in the run's own process and start no others;
            0: never.
        reports_interval_seconds: how long after a refresh of the reports began the next one may, while changes come in.
        partition_days: how long an ended campaign keeps its partition in Dagster, which takes 100,000 of them.
    """

    dagster_port: Port = 3000
    max_concurrent_runs: PositiveInt = 4
    one_process_rows: Annotated[int, Field(ge=0)] = 5_000
    reports_interval_seconds: Annotated[float, Field(ge=0)] = 60.0
    partition_days: PositiveFloat = 90.0
