"""A warehouse that hangs delays reports and nothing else.

The embedded ClickHouse's process is stopped (SIGSTOP): it goes on taking connections and answers nothing, as a server
does that is overloaded or whose machine swaps.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import psutil
import pytest
from sqlalchemy import Engine

from email_platform.adapters.assembly import open_parts, open_warehouse
from email_platform.definitions import defs
from email_platform.errors import PartUnavailableError
from email_platform.runs.load import load_staged, prove
from email_platform.settings import Settings, variable_of
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads

SHORT_SECONDS = 1.0


@contextmanager
def stopped_clickhouse(settings: Settings) -> Iterator[None]:
    """The stack's ClickHouse process, stopped within the block."""
    folder = str(settings.state_folder)
    found = [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if "email_platform.local.clickhouse_endpoint" in (process.info["cmdline"] or [])
        and folder in " ".join([*process.info["cmdline"], *(process.info["environ"] or {}).values()])
    ]
    assert found, "the embedded ClickHouse does not run"
    for process in found:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in found:
            process.send_signal(signal.SIGCONT)


def test_a_campaign_is_sent_and_staged_while_the_warehouse_hangs_and_loaded_when_it_is_back(
    oltp_engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable_of("state_folder"), str(settings.state_folder))
    campaign_id = queue_campaign(oltp_engine, in_city(seed_leads(oltp_engine, numbered(120))))
    with stopped_clickhouse(settings), dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("campaign", [str(campaign_id)])
        run = defs.resolve_job_def("campaign_job").execute_in_process(partition_key=str(campaign_id), instance=instance)
        assert run.success
        assert row_of(oltp_engine, campaign_id).status == "sent"
        with pytest.raises(PartUnavailableError, match="does not answer"), open_warehouse(settings, SHORT_SECONDS):
            pass
    with open_parts(settings) as parts, open_warehouse(settings) as warehouse:
        load_staged(parts.register, warehouse)
        assert prove(parts, warehouse, campaign_id).holds
        assert warehouse.delivery_counts(campaign_id)["accepted"] == 120


def test_a_reader_whose_statement_hangs_gets_an_error_and_the_next_one_is_served(settings: Settings) -> None:
    with open_warehouse(settings, SHORT_SECONDS) as warehouse:
        assert warehouse.query("select 1", {}) == [(1,)]
        with stopped_clickhouse(settings), pytest.raises(PartUnavailableError, match="does not answer"):
            warehouse.query("select 2", {})
        assert warehouse.query("select 3", {}) == [(3,)]
