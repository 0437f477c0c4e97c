"""The writer's promise: what it returned from is on disk, and a failed group leaves nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from pathlib import Path

import pytest

from email_platform.errors import PartUnavailableError
from email_platform.local.provider_simulator.accepted_log import (
    AcceptedLog,
    AcceptedSummary,
    RefusedRow,
    database_path,
    open_for_reading,
    read_stored_answer,
)
from email_platform.local.provider_simulator.accepted_log_writer import AcceptedLogWriter, AnsweredCall
from email_platform.local.provider_simulator.idempotency import StoredAnswer


def _call(message_id: str = "m1", campaign: str = "c1") -> AnsweredCall:
    return AnsweredCall(
        account="default",
        idempotency_key=f"key-{message_id}",
        call_id="call",
        campaign=campaign,
        accepted_at_ms=1_700_000_000_123,
        accepted=[(f"{message_id}@example.com", message_id, f"p-{message_id}", "delivered")],
        rejected=[("nowhere", f"{message_id}-bad", "InvalidAddress", "no")],
        answer=StoredAnswer("fingerprint", '{"results":[]}', 1_700_000_000_123),
    )


def test_a_call_is_readable_by_others_as_soon_as_append_returns(tmp_path: Path) -> None:
    async def scenario() -> None:
        writer = AcceptedLogWriter(tmp_path, asyncio.get_running_loop())
        await writer.append(_call())
        log = AcceptedLog(tmp_path)
        assert log.summary("c1") == AcceptedSummary(1, 1, 1, 1)
        assert log.rejected_rows() == 1
        [row] = log.rows()
        assert (row.message_id, row.accepted_at.isoformat()) == ("m1", "2023-11-14T22:13:20.123000+00:00")
        reader = open_for_reading(database_path(tmp_path))
        assert read_stored_answer(reader, "default", "key-m1") == _call().answer
        assert read_stored_answer(reader, "other", "key-m1") is None
        reader.close()
        writer.close()

    asyncio.run(scenario())


def test_calls_that_gather_are_all_logged_with_sequences_of_their_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        writer = AcceptedLogWriter(tmp_path, asyncio.get_running_loop())
        await asyncio.gather(*(writer.append(_call(f"m{number}", f"c{number % 2}")) for number in range(600)))
        writer.close()

    asyncio.run(scenario())
    assert AcceptedLog(tmp_path).summary() == AcceptedSummary(600, 600, 600, 600)
    assert AcceptedLog(tmp_path).counts_by_campaign() == {"c0": 300, "c1": 300}


def test_a_call_that_cannot_be_logged_leaves_no_trace_and_the_next_one_is_logged(tmp_path: Path) -> None:
    async def scenario() -> None:
        writer = AcceptedLogWriter(tmp_path, asyncio.get_running_loop())
        broken = dataclasses.replace(_call("m1"), rejected=[("x", "x", None, "x")])  # type: ignore[list-item]
        with pytest.raises(sqlite3.IntegrityError):
            await writer.append(broken)
        assert AcceptedLog(tmp_path).summary().accepted_rows == 0
        await writer.append(_call("m2"))
        writer.close()

    asyncio.run(scenario())
    assert AcceptedLog(tmp_path).message_ids() == {"m2"}


def test_the_writer_forces_every_commit_to_the_disk(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, str]:
        writer = AcceptedLogWriter(tmp_path, asyncio.get_running_loop())
        [synchronous] = await writer.write(lambda connection: connection.execute("pragma synchronous").fetchone())
        [journal] = await writer.write(lambda connection: connection.execute("pragma journal_mode").fetchone())
        writer.close()
        return synchronous, journal

    assert asyncio.run(scenario()) == (2, "wal")


def test_sequences_go_on_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        for message_id in ("m1", "m2", "m1"):
            writer = AcceptedLogWriter(tmp_path, asyncio.get_running_loop())
            await writer.append(_call(message_id))
            writer.close()

    asyncio.run(scenario())
    log = AcceptedLog(tmp_path)
    assert log.duplicates() == {"m1": 2}
    assert log.summary().calls == 3
    assert [row.sequence for row in log.page(after_sequence=1)] == [2, 3]


def test_the_first_recipient_of_each_plan_and_of_each_refusal_of_a_campaign_is_found(tmp_path: Path) -> None:
    one = dataclasses.replace(
        _call("m1"),
        accepted=[
            ("a@example.com", "a", "pa", "delivered"),
            ("b@example.com", "b", "pb", "delivered,opened"),
            ("c@example.com", "c", "pc", "delivered"),
        ],
        rejected=[("d", "d", "InvalidAddress", "no @"), ("e", "e", "Blocked", "no"), ("f", "f", "Blocked", "never")],
    )

    async def scenario() -> None:
        writer = AcceptedLogWriter(tmp_path, asyncio.get_running_loop())
        await writer.append(_call("m0", "c2"))
        await writer.append(one)
        writer.close()

    asyncio.run(scenario())
    log = AcceptedLog(tmp_path)
    assert [(row.planned_events, row.recipient) for row in log.one_of_each_plan("c1")] == [
        ("delivered", "a@example.com"),
        ("delivered,opened", "b@example.com"),
    ]
    assert log.one_of_each_refusal("c1") == [
        RefusedRow("e", "e", "Blocked", "no"),
        RefusedRow("d", "d", "InvalidAddress", "no @"),
    ]


def test_a_folder_without_a_log_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(PartUnavailableError, match="no provider simulator has run"):
        AcceptedLog(tmp_path).summary()
