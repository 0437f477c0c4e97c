"""Dagster's runs and the reports that they refresh."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from email_platform.settings.names import variable_of
from email_platform.settings.values import BrokerUrl, Port, PositiveFloat, PositiveInt


class RunSettings(BaseModel):
    """How Dagster works.

    Attributes:
        dagster_port: of the UI on a bare machine.
        code_server_port: where the code server listens, which serves the definitions and starts the runs.
        max_concurrent_runs: how many Dagster runs go side by side. It comes into ``dagster.yaml`` when that file is
            written: by `email-platform up` and `email-platform dagster-yaml`.
        one_process_rows: up to so many recipients a campaign's steps run in the run's own process and start no others;
            0: never.
        steps: where the steps of a larger campaign run: ``processes`` of the run's own machine, or ``celery``: workers
            on any machine (`email-platform worker`), which a Redis hands the steps to.
        celery_broker_url: that Redis (redis:// or rediss://); it needs no persistence.
        celery_visibility_seconds: after so long without an answer Redis hands a step to another worker; longer than
            the longest chunk takes.
        worker_slots: steps side by side of one worker.
        reports_interval_seconds: how long after a refresh of the reports began the next one may, while changes come in.
        partition_days: how long an ended campaign keeps its partition in Dagster, which takes 100,000 of them.
    """

    dagster_port: Port = 3000
    code_server_port: Port = 4000
    max_concurrent_runs: PositiveInt = 4
    one_process_rows: Annotated[int, Field(ge=0)] = 5_000
    steps: Literal["processes", "celery"] = "processes"
    celery_broker_url: BrokerUrl | None = None
    celery_visibility_seconds: PositiveInt = 21_600
    worker_slots: PositiveInt = 2
    reports_interval_seconds: Annotated[float, Field(ge=0)] = 60.0
    partition_days: PositiveFloat = 90.0

    @model_validator(mode="after")
    def _celery_has_a_broker(self) -> Self:
        if self.steps == "celery" and self.celery_broker_url is None:
            raise ValueError(
                f"{variable_of('celery_broker_url')} is not set, and {variable_of('steps')} is celery: set it to the "
                f"redis:// address of the workers' broker, or {variable_of('steps')} to processes"
            )
        return self
