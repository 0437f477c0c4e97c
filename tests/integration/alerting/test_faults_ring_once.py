"""Faults caused on purpose, on a real PostgreSQL, a real bucket and a real HTTP server: each rings once.

Each fault is looked at several times, also by a process that has just started; time is the test's own.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, delete, func, insert, select, text, update
from sqlalchemy.engine import make_url

from email_platform.adapters.assembly import open_alerts, open_oltp, open_parts, open_store
from email_platform.adapters.part_checks import check_parts
from email_platform.adapters.postgres.alert_book import PostgresAlertBook
from email_platform.adapters.postgres.tables import (
    alert,
    alert_beat,
    alert_delivery,
    campaign,
    campaign_guard,
    chunk,
    send_call,
    staged_object,
)
from email_platform.alerting.condition import Condition
from email_platform.alerting.rules import notice_condition
from email_platform.alerting.watch import AlertParts, Host, look, ring
from email_platform.domain.campaigns import CampaignStatus
from email_platform.domain.storage_layout import EVENT_INBOX_PREFIX
from email_platform.errors import AccountRefusedError, InvalidConditionError, PartUnavailableError
from email_platform.local.stack.part import free_port
from email_platform.receiver.alert_watch import AlertWatch
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.guard import Feedback
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from tests.integration.alert_server import alert_server
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, seed_leads, unique
from tests.integration.own_databases import closing_engine

pytestmark = pytest.mark.integration

HOUR = 3600.0
MINUTE = 60.0
PATIENCE_SECONDS = 60.0


@dataclass
class Watched:
    """A platform, who listens to its alerts, and the time."""

    settings: Settings
    engine: Engine
    heard: list[dict[str, Any]]
    ahead_seconds: float = 0.0
    answer: int = 200
    extra: dict[str, Any] = field(default_factory=dict)

    def clock(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead_seconds)

    @contextmanager
    def opened(self, **changed: Any) -> Iterator[AlertParts]:
        """What a process has that starts now."""
        with open_alerts(self.settings.model_copy(update={**self.extra, **changed})) as parts:
            yield replace(parts, clock=self.clock)

    def look(self, host: Host = "receiver", **changed: Any) -> list[tuple[str, str]]:
        """One look of a process that starts for it; what was heard since the last one."""
        before = len(self.heard)
        with self.opened(**changed) as parts:
            look(parts, host)
        return [(one["kind"], one["state"]) for one in self.heard[before:]]


@pytest.fixture
def watched(own: Settings) -> Iterator[Watched]:
    with ExitStack() as stack:
        found: list[Watched] = []
        address, heard = stack.enter_context(alert_server(lambda: found[0].answer))
        settings = own.model_copy(update={"alert_webhook_url": SecretStr(address)})
        engine = stack.enter_context(open_oltp(settings))
        found.append(Watched(settings, engine, heard))
        yield found[0]
        with engine.begin() as connection:
            for table in (alert_delivery, alert, alert_beat, send_call, chunk, staged_object, campaign_guard):
                connection.execute(delete(table))
            may_be_cancelled = campaign.c.status.not_in(("sent", "cancelled"))
            connection.execute(update(campaign).where(may_be_cancelled).values(status="cancelled"))


def change(watched: Watched, campaign_id: int, status: CampaignStatus, reason: str | None = None) -> None:
    with open_parts(watched.settings, {}) as parts:
        parts.campaigns.change_status(campaign_id, status, reason)


Mend = Callable[[], None]


def a_campaign_is_paused(watched: Watched) -> Mend:
    campaign_id = queue_campaign(watched.engine, in_city("nowhere"))
    change(watched, campaign_id, CampaignStatus.PAUSED, "8 attempts in a row came to nothing; the last one: run x")
    return lambda: change(watched, campaign_id, CampaignStatus.QUEUED)


def a_campaign_fails(watched: Watched) -> Mend:
    campaign_id = queue_campaign(watched.engine, {"field": "contry", "op": "eq", "value": "DE"})
    with open_parts(watched.settings, {}) as parts, pytest.raises(InvalidConditionError):
        freeze_audience(parts, campaign_id)

    def mend() -> None:
        with watched.engine.begin() as connection:
            connection.execute(update(campaign).values(condition=in_city("x")).where(campaign.c.id == campaign_id))
        change(watched, campaign_id, CampaignStatus.QUEUED)

    return mend


def the_provider_refuses_our_key(watched: Watched) -> Mend:
    city = seed_leads(watched.engine, numbered(3))
    campaign_id = queue_campaign(watched.engine, in_city(city))
    wrong = watched.settings.model_copy(update={"provider_api_key": SecretStr("wrong-key-9f8e7d6c5b4a")})
    with open_parts(wrong, {}) as parts:
        freeze_audience(parts, campaign_id)
        with pytest.raises(AccountRefusedError):
            send_chunk(parts, campaign_id, 0, holder="test")
    return lambda: change(watched, campaign_id, CampaignStatus.QUEUED)


def a_campaign_bounces(watched: Watched) -> Mend:
    from email_platform.adapters.postgres.guard import PostgresGuardRegister

    campaign_id = queue_campaign(watched.engine, in_city("nowhere"))
    PostgresGuardRegister(watched.engine).stop(campaign_id, Feedback(300, 30), "30 of 300 messages bounced hard")
    return lambda: change(watched, campaign_id, CampaignStatus.QUEUED)


def calls_have_no_answer(watched: Watched) -> Mend:
    campaign_id = queue_campaign(watched.engine, in_city("nowhere"), status="sent")
    with watched.engine.begin() as connection:
        connection.execute(insert(chunk).values(campaign_id=campaign_id, chunk_index=0))
        connection.execute(
            insert(send_call).values(
                campaign_id=campaign_id,
                chunk_index=0,
                call_index=0,
                call_id=func.gen_random_uuid(),
                state="unknown",
                first_position=0,
                recipient_count=50,
                body_sha256=b"x",
                lease_epoch=1,
                intent_at=datetime.now(UTC),
            )
        )
    watched.ahead_seconds = HOUR

    def mend() -> None:
        with open_parts(watched.settings, {}) as parts:
            assert parts.ledger.decide_unknown(campaign_id, "abandon") == 1

    return mend


def loads_wait(watched: Watched) -> Mend:
    with watched.engine.begin() as connection:
        connection.execute(
            insert(staged_object).values(
                key=unique("late"), kind="delivery", rows=1, content_sha256="a", staged_at=datetime.now(UTC)
            )
        )
    watched.ahead_seconds = HOUR

    def mend() -> None:
        with watched.engine.begin() as connection:
            connection.execute(update(staged_object).values(loaded_sha256="a"))

    return mend


def an_object_is_set_aside(watched: Watched) -> Mend:
    with watched.engine.begin() as connection:
        connection.execute(
            insert(staged_object).values(
                key=unique("bad"),
                kind="delivery",
                rows=1,
                content_sha256="a",
                staged_at=datetime.now(UTC),
                quarantined_reason="not a Parquet file",
            )
        )

    def mend() -> None:
        with watched.engine.begin() as connection:
            connection.execute(delete(staged_object))

    return mend


def events_wait(watched: Watched) -> Mend:
    key = f"{EVENT_INBOX_PREFIX}2026-01-01/{unique('late')}.parquet"
    open_store(watched.settings).put(key, b"a body")
    watched.ahead_seconds = HOUR
    return lambda: open_store(watched.settings).delete(key)


def the_queue_does_not_move(watched: Watched) -> Mend:
    campaign_id = queue_campaign(watched.engine, in_city("nowhere"))
    watched.ahead_seconds = HOUR
    return lambda: change(watched, campaign_id, CampaignStatus.CANCELLED)


def a_campaign_falls_silent(watched: Watched) -> Mend:
    campaign_id = queue_campaign(watched.engine, in_city("nowhere"))
    change(watched, campaign_id, CampaignStatus.SENDING)
    watched.ahead_seconds = HOUR
    return lambda: change(watched, campaign_id, CampaignStatus.CANCELLED)


def dagster_dies(watched: Watched) -> Mend:
    assert watched.look("dagster") == []
    watched.ahead_seconds = 5 * MINUTE

    def mend() -> None:
        with watched.opened() as parts:
            parts.book.beat("dagster", watched.clock())

    return mend


def the_bucket_refuses_our_key(watched: Watched) -> Mend:
    watched.extra = {"s3_secret_access_key": SecretStr("wrong")}
    return watched.extra.clear


def the_bucket_is_away(watched: Watched) -> Mend:
    port = free_port()
    watched.extra = {"s3_endpoint_url": f"http://127.0.0.1:{port}"}
    return watched.extra.clear


FAULTS: dict[Callable[[Watched], Mend], str] = {
    a_campaign_is_paused: "campaign_paused",
    a_campaign_fails: "campaign_failed",
    the_provider_refuses_our_key: "account_refused",
    a_campaign_bounces: "campaign_feedback",
    a_campaign_falls_silent: "campaign_silent",
    calls_have_no_answer: "unknown_calls",
    loads_wait: "loads_late",
    an_object_is_set_aside: "object_quarantined",
    events_wait: "events_late",
    the_queue_does_not_move: "queue_stuck",
    dagster_dies: "dagster_dead",
    the_bucket_refuses_our_key: "credential_refused",
    the_bucket_is_away: "part_away",
}


@pytest.mark.parametrize(("fault", "kind"), FAULTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_fault_rings_once_and_is_over_once_also_across_restarts(
    watched: Watched, fault: Callable[[Watched], Mend], kind: str
) -> None:
    assert watched.look() == []
    mend = fault(watched)
    assert watched.look() == [(kind, "raised")]
    assert watched.look() == []
    watched.ahead_seconds += MINUTE
    assert watched.look() == []
    mend()
    assert watched.look() == [(kind, "resolved")]
    watched.ahead_seconds += MINUTE
    assert watched.look() == []
    first, last = watched.heard
    assert first["id"] == last["id"]
    assert all(first[name] for name in ("happened", "meaning", "command"))
    assert first["text"] == f"{first['happened']}\n{first['meaning']}\nDo: {first['command']}"
    assert last["text"] == f"OVER: {first['happened']}"
    assert "wrong-key-9f8e7d6c5b4a" not in str(watched.heard)


def test_a_dead_receiver_is_seen_from_dagster(watched: Watched) -> None:
    with watched.opened() as parts:
        AlertWatch(parts).look()
    watched.ahead_seconds = 5 * MINUTE
    assert watched.look("dagster") == [("receiver_dead", "raised")]
    assert watched.look("dagster") == []
    with watched.opened() as parts:
        AlertWatch(parts).look()
    assert [(one["kind"], one["state"]) for one in watched.heard[1:]] == [("receiver_dead", "resolved")]
    watched.ahead_seconds += 8 * 24 * HOUR  # taken away for good, as is Dagster
    assert watched.look("dagster") == []


def test_a_receiver_that_runs_looks_by_itself_and_ends_cleanly(watched: Watched) -> None:
    a_campaign_is_paused(watched)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "email_platform.receiver", "--port", str(port), "--exit-with-parent"],
        env={**os.environ, **watched.settings.variables()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not watched.heard and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [(one["kind"], one["state"]) for one in watched.heard] == [("campaign_paused", "raised")]
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def test_an_outage_of_postgresql_rings_once_from_the_receiver_and_is_over_once(watched: Watched) -> None:
    name = make_url(watched.settings.postgres_url.get_secret_value()).database
    admin_url = make_url(watched.settings.postgres_url.get_secret_value()).set(database="postgres")

    def allow(connections: bool) -> None:
        with (
            closing_engine(admin_url.render_as_string(hide_password=False)) as admin,
            admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            connection.execute(text(f"alter database {name} with allow_connections {connections}"))
            if not connections:
                sessions = "select pg_terminate_backend(pid) from pg_stat_activity where datname = :name"
                connection.execute(text(sessions), {"name": name})

    with watched.opened() as parts:
        watch = AlertWatch(parts)
        watch.look()
        allow(False)
        try:
            for _ in range(6):
                watch.look()
            assert [(one["subject"], one["state"]) for one in watched.heard] == [("PostgreSQL", "raised")]
        finally:
            allow(True)
        watched.engine.dispose()
        for _ in range(3):
            watch.look()
    assert [(one["subject"], one["state"]) for one in watched.heard[1:]] == [("PostgreSQL", "resolved")]


def test_an_operators_own_pause_calls_nobody(watched: Watched) -> None:
    campaign_id = queue_campaign(watched.engine, in_city("nowhere"))
    change(watched, campaign_id, CampaignStatus.PAUSED, "by an operator")
    assert watched.look() == []


def test_a_campaign_paused_again_rings_again_also_where_nobody_looked_in_between(watched: Watched) -> None:
    mend = a_campaign_is_paused(watched)
    assert watched.look() == [("campaign_paused", "raised")]
    mend()
    with watched.engine.begin() as connection:
        connection.execute(update(campaign).values(attempt=campaign.c.attempt + 1).where(campaign.c.status == "queued"))
        campaign_id = connection.execute(select(campaign.c.id).where(campaign.c.status == "queued")).scalar_one()
    change(watched, campaign_id, CampaignStatus.PAUSED, "something else")
    assert sorted(watched.look()) == [("campaign_paused", "raised"), ("campaign_paused", "resolved")]
    assert len({one["id"] for one in watched.heard}) == 2


def test_a_target_that_is_away_hears_of_beginning_and_end_once_and_in_order(watched: Watched) -> None:
    watched.answer = 503
    mend = a_campaign_is_paused(watched)
    assert watched.look() == []
    mend()
    assert watched.look() == []
    watched.answer = 200
    assert watched.look() == []  # the pause after a refusal
    watched.ahead_seconds = 5 * MINUTE
    assert watched.look() == [("campaign_paused", "raised")]
    assert watched.look() == [("campaign_paused", "resolved")]
    watched.ahead_seconds = 10 * MINUTE
    assert watched.look() == []


def test_a_process_that_dies_before_it_sends_leaves_the_message_to_the_next(watched: Watched) -> None:
    a_campaign_is_paused(watched)
    with watched.opened() as parts:
        dies = replace(parts, targets={"webhook": _raises(SystemExit)})
        with suppress(SystemExit):
            look(dies, "receiver")
    assert watched.look() == []  # it may be sending still
    watched.ahead_seconds = 2 * MINUTE
    assert watched.look() == [("campaign_paused", "raised")]


def _raises(error: type[BaseException]) -> Callable[[object], None]:
    def send(_: object) -> None:
        raise error

    return send


def test_two_processes_that_look_at_once_ring_once(watched: Watched) -> None:
    for _ in range(5):
        a_campaign_is_paused(watched)
    together = threading.Barrier(4)
    problems: list[BaseException] = []

    def one() -> None:
        try:
            with watched.opened() as parts:
                together.wait(30)
                look(parts, "receiver")
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(one["kind"] for one in watched.heard) == ["campaign_paused"] * 5
    assert len({one["id"] for one in watched.heard}) == 5


def test_many_campaigns_ring_up_to_a_bound_and_none_is_over_before_its_time(watched: Watched) -> None:
    for _ in range(23):
        queue_campaign(watched.engine, in_city("nowhere"), status="paused", status_reason="something")
    for _ in range(3):
        watched.look()
    assert [one["state"] for one in watched.heard] == ["raised"] * 20
    queue_campaign(watched.engine, in_city("nowhere"), status="paused", status_reason="something")
    assert watched.look() == []  # it is newer than all, and takes no place from the oldest


def test_what_is_rung_at_once_is_kept_where_nobody_takes_it(watched: Watched) -> None:
    notice = notice_condition("the account is under review")
    watched.answer = 500
    with watched.opened() as parts:
        with pytest.raises(PartUnavailableError):
            ring(parts, notice)
        watched.answer = 200
        ring(parts, notice)
        ring(parts, notice)
    assert [(one["kind"], one["state"]) for one in watched.heard] == [("provider_notice", "raised")]
    watched.ahead_seconds = 25 * HOUR
    assert watched.look() == [("provider_notice", "resolved")]


def test_a_target_added_later_hears_of_what_holds(watched: Watched) -> None:
    mend = a_campaign_is_paused(watched)
    assert watched.look(alert_webhook_url=None) == []
    assert watched.look() == [("campaign_paused", "raised")]
    mend()
    assert watched.look(alert_webhook_url=None) == []
    assert watched.look() == [("campaign_paused", "resolved")]


def test_apprise_takes_the_same_and_no_line_names_its_address(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    address = watched.settings.alert_webhook_url.get_secret_value()
    host = address.removeprefix("http://").partition("/")[0]
    urls = SecretStr(f"json://somebody:hidden-word@{host}/secret-token")
    only_apprise = {"alert_webhook_url": None, "alert_urls": urls}
    a_campaign_is_paused(watched)
    caplog.set_level(logging.DEBUG)
    with watched.opened(**only_apprise) as parts:
        (name,) = parts.targets
        watched.answer = 503
        assert look(parts, "receiver").refused == 1
        watched.answer = 200
        watched.ahead_seconds = 5 * MINUTE
        assert look(parts, "receiver").taken == 1
    (heard,) = watched.heard
    assert heard["type"] == "failure"
    assert heard["title"].endswith("campaign paused")
    assert "Do: email-platform campaign resume" in heard["message"]
    lines = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("email_platform"))
    assert "did not take the alert" in lines
    with watched.engine.connect() as connection:
        kept = str(connection.execute(select(alert_delivery)).all())
    for secret in ("hidden-word", "secret-token", host):
        assert secret not in lines + kept + name


def test_a_wrong_url_of_apprise_is_named_by_its_place_and_holds_up_nobody_else(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    host = watched.settings.alert_webhook_url.get_secret_value().removeprefix("http://").partition("/")[0]
    urls = SecretStr(f"nonsense://hidden-word json://{host}/x")
    a_campaign_is_paused(watched)
    with watched.opened(alert_urls=urls) as parts:
        assert list(parts.targets) == ["webhook", "nonsense-1", "json-1"]
        report = look(parts, "receiver")
    assert (report.taken, report.refused) == (2, 1)
    (_, waiting, problem), *_ = PostgresAlertBook(watched.engine).listed(1, with_resolved=False)
    assert (waiting, str(problem).partition(" is no URL")[0]) == (1, "EMAIL_PLATFORM_ALERT_URLS: number 1")
    assert "hidden-word" not in caplog.text + str(problem)
    (check,) = (
        one for one in check_parts(watched.settings.model_copy(update={"alert_urls": urls}), {}) if one.part == "alerts"
    )
    assert (check.fits, "number 1 is no URL" in check.says, "hidden-word" in check.says) == (False, True, False)


def test_old_alerts_are_forgotten(watched: Watched) -> None:
    a_campaign_is_paused(watched)()
    with watched.opened() as parts:
        ring(parts, Condition("test", "test", "a", "b", "c"))
    with watched.engine.begin() as connection:
        connection.execute(update(alert).values(resolved_at=datetime.now(UTC) - timedelta(days=91)))
    watched.look()
    assert PostgresAlertBook(watched.engine).listed(10, with_resolved=True) == []
