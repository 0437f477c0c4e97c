"""For how long what the platform no longer works with is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

_Days = Annotated[int, Field(ge=0, le=36_500)]


class RetentionSettings(BaseModel):
    """Days after which `email-platform retention run` and `retention_job` remove what is not needed; 0: never.

    Attributes:
        keep_ledger_days: the call ledger of a campaign, after it was sent or cancelled; then only the bucket has it.
        keep_run_days: Dagster's runs with their events, logs and step outputs, after a run has ended.
        keep_raw_event_days: bodies of events as they came, after their events were loaded.
        keep_leftover_days: rows of work that is over: imports that nobody went on with, accounts' old users.
    """

    keep_ledger_days: _Days = 180
    keep_run_days: _Days = 60
    keep_raw_event_days: _Days = 180
    keep_leftover_days: _Days = 30
