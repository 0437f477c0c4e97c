"""Puts adapters together from the settings; the only place that knows which adapter serves which Protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import Engine

from email_platform.adapters.alerts import alert_targets
from email_platform.adapters.clickhouse.client import LOAD_TIMEOUT_SECONDS, READER_TIMEOUT_SECONDS
from email_platform.adapters.clickhouse.erasure import WarehousePerson
from email_platform.adapters.clickhouse.lookups import ClickHouseEmailLookup
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.postgres.alert_book import PostgresAlertBook
from email_platform.adapters.postgres.alert_facts import PlatformAlertFacts
from email_platform.adapters.postgres.audience import PostgresAudienceSource
from email_platform.adapters.postgres.campaigns import PostgresCampaignStore
from email_platform.adapters.postgres.dimensions import PostgresDimensionSource
from email_platform.adapters.postgres.engine import create_oltp_engine
from email_platform.adapters.postgres.erased import ErasedAddresses, erasure_key
from email_platform.adapters.postgres.erasures import PostgresErasures
from email_platform.adapters.postgres.events import PostgresEventIntake, PostgresSuppressions
from email_platform.adapters.postgres.guard import PostgresGuardRegister
from email_platform.adapters.postgres.lead_relation import LeadRelation
from email_platform.adapters.postgres.leads_now import PostgresLeadsNow
from email_platform.adapters.postgres.ledger import PostgresCallLedger
from email_platform.adapters.postgres.ledger_archive import PostgresLedgerArchive
from email_platform.adapters.postgres.leftovers import PostgresLeftovers
from email_platform.adapters.postgres.manifests import PostgresManifestStore
from email_platform.adapters.postgres.rate_limit import PostgresRateLimiter
from email_platform.adapters.postgres.staging import PostgresStagingRegister
from email_platform.adapters.postgres.work_lease import try_work_lease
from email_platform.adapters.providers import (
    CallTimeouts,
    ProviderAccount,
    SenderCheck,
    account_from_variables,
    build_provider,
    check_sender,
    provider_limits,
)
from email_platform.adapters.tracing import traced_provider
from email_platform.alerting.rules import Limits as AlertLimits
from email_platform.alerting.watch import AlertParts, ring
from email_platform.content.apart import RenderingLimits
from email_platform.content.renderer import TemplateRenderer
from email_platform.content.unsubscribe import UnsubscribeSigner
from email_platform.domain.campaigns import Sender
from email_platform.domain.found_email import FoundEmail
from email_platform.domain.ports import EmailProvider, ProviderLimits
from email_platform.errors import CommandRefusedError
from email_platform.events.inbox import SuppressionPolicy
from email_platform.events.mailed import ManifestAddresses
from email_platform.runs.erasure_parts import EraseParts
from email_platform.runs.events import EventParts
from email_platform.runs.explanation import ExplainParts
from email_platform.runs.guard import GuardLimits
from email_platform.runs.parts import ContentErrorLimits, Parts
from email_platform.runs.retention import KeptDays, RetentionParts, RunHistory
from email_platform.sending.policy import DeliveryPolicy, RejectionLimits
from email_platform.sending.rate_limit import AccountRate, RateLimiter, Unlimited
from email_platform.settings import Settings, variable_of
from email_platform.settings.provider_accounts import AccountVariables


def utc_now() -> datetime:
    """The present time, UTC-aware."""
    return datetime.now(UTC)


def open_store(settings: Settings, *, patience_seconds: float | None = None) -> S3ObjectStore:
    """The staging bucket; with `patience_seconds` each request is made once and waits so long for an answer."""
    return S3ObjectStore.from_settings(settings, patience_seconds=patience_seconds)


@contextmanager
def open_oltp(settings: Settings) -> Iterator[Engine]:
    """The OLTP database; its connections are closed on leaving."""
    engine = create_oltp_engine(
        settings.postgres_url.get_secret_value(), settings.lease_seconds, settings.postgres_pooler
    )
    try:
        yield engine
    finally:
        engine.dispose()


def provider_account(settings: Settings, sender: Sender, variables: Mapping[str, str]) -> ProviderAccount:
    """The sender's account from EMAIL_PLATFORM_<PROVIDER>_*; the simulator's address comes from the settings."""
    account = account_from_variables(sender.provider, sender.provider_account, variables)
    if sender.provider == "simulator" and account.base_url is None:
        account = replace(account, base_url=settings.provider_url, api_key=settings.provider_api_key)
    return account


def ask_about_sender(settings: Settings, sender: Sender, variables: Mapping[str, str]) -> SenderCheck:
    """Whether the sender's provider would take mail from its address; see `check_sender`.

    Raises:
        ConfigurationError: an unknown provider, or a missing credential (which variable).
    """
    return check_sender(sender.provider, provider_account(settings, sender, variables), sender.from_address)


def account_rate(provider: str, account: str, variables: Mapping[str, str]) -> AccountRate:
    """The account's rate from EMAIL_PLATFORM_<PROVIDER>[_<ACCOUNT>]_RECIPIENTS_PER_SECOND and ..._CALLS_PER_SECOND.

    Raises:
        ConfigurationError: a rate is no positive number.
    """
    found = AccountVariables(provider, account, variables)
    return AccountRate(found.rate("recipients_per_second"), found.rate("calls_per_second"))


@contextmanager
def open_parts(settings: Settings, variables: Mapping[str, str] | None = None) -> Iterator[Parts]:
    """Everything a campaign's run needs; nothing is connected before it is used.

    Args:
        settings: the validated settings.
        variables: where provider accounts are read from; the process environment by default.
    """
    environment = os.environ if variables is None else variables
    signer = UnsubscribeSigner.from_settings(settings)
    leads = LeadRelation.from_settings(settings)
    key = erasure_key(settings)

    def provider(sender: Sender) -> EmailProvider:
        account = provider_account(settings, sender, environment)
        built = build_provider(
            sender.provider,
            account,
            timeouts=CallTimeouts(read_seconds=settings.provider_answer_seconds),
            max_connections=settings.provider_connections,
        )
        return traced_provider(built, sender)

    def limits(sender: Sender) -> ProviderLimits:
        return provider_limits(sender.provider, provider_account(settings, sender, environment))

    with open_oltp(settings) as engine:

        def limiter(sender: Sender, campaign_id: int) -> RateLimiter:
            rate = account_rate(sender.provider, sender.provider_account, environment)
            account = f"{sender.provider}/{sender.provider_account}"
            return PostgresRateLimiter(engine, account, rate, campaign_id) if rate.is_limited else Unlimited()

        yield Parts(
            campaigns=PostgresCampaignStore(engine),
            manifests=PostgresManifestStore(engine),
            audience=PostgresAudienceSource(engine, key, leads),
            dimensions=PostgresDimensionSource(engine),
            suppressions=PostgresSuppressions(engine, key, leads),
            ledger=PostgresCallLedger(engine, settings.lease_seconds),
            store=open_store(settings),
            register=PostgresStagingRegister(engine),
            clock=utc_now,
            policy=DeliveryPolicy(
                connections=settings.provider_connections,
                lease_seconds=settings.lease_seconds,
                rejections=RejectionLimits(settings.rejected_share_limit, settings.rejected_minimum),
            ),
            chunk_rows=settings.chunk_rows,
            limits=limits,
            provider=provider,
            limiter=limiter,
            renderer=lambda content_of: TemplateRenderer(
                content_of,
                signer,
                apart=RenderingLimits(settings.render_seconds, memory_megabytes=settings.render_memory_megabytes),
                sending_apart=limits_while_sending(settings),
            ),
            content_errors=ContentErrorLimits(settings.content_error_share, settings.content_error_minimum),
            erased=ErasedAddresses(engine, key),
        )


def limits_while_sending(settings: Settings) -> RenderingLimits:
    """Rendering holds up the chunk's other work, its lease's renewal too: it is given up well before the lease ends."""
    seconds, setting = settings.render_seconds, "render_seconds"
    if seconds > settings.lease_seconds / 2:
        seconds, setting = settings.lease_seconds / 2, "lease_seconds"
    return RenderingLimits(seconds, variable_of(setting), settings.render_memory_megabytes)


@contextmanager
def open_events(settings: Settings) -> Iterator[EventParts]:
    """Everything a pass over the events needs beside `open_parts`; nothing is connected before it is used."""
    with open_oltp(settings) as engine:
        store = open_store(settings)
        alerts = alert_parts(settings, engine, store)
        leads = LeadRelation.from_settings(settings)
        key = erasure_key(settings)
        yield EventParts(
            store=store,
            intake=PostgresEventIntake(engine, key, leads),
            guard=PostgresGuardRegister(engine),
            limits=GuardLimits(
                settings.guard_bounce_rate,
                settings.guard_complaint_rate,
                settings.guard_minimum_accepted,
                settings.guard_minimum_events,
                settings.guard_blocked_rate,
            ),
            alert=lambda alert: ring(alerts, alert.condition()),
            clock=utc_now,
            policy=SuppressionPolicy(
                mailed=ManifestAddresses(store, PostgresManifestStore(engine).find),
                present_addresses=PostgresSuppressions(engine, key, leads).present_addresses,
                complaint_scope=settings.complaint_scope,
                erased=ErasedAddresses(engine, key),
            ),
        )


def alert_parts(settings: Settings, engine: Engine, store: S3ObjectStore) -> AlertParts:
    """What a look for alerts needs (`email_platform.alerting.watch`), over these connections."""
    return AlertParts(
        facts=PlatformAlertFacts(engine, store),
        book=PostgresAlertBook(engine),
        targets=alert_targets(settings.alert_webhook_url, settings.alert_urls),
        limits=AlertLimits(settings.alert_late_seconds),
        clock=utc_now,
    )


@contextmanager
def open_alerts(settings: Settings) -> Iterator[AlertParts]:
    """The same with connections of its own; nothing is connected before it is used."""
    with open_oltp(settings) as engine:
        yield alert_parts(settings, engine, open_store(settings))


@contextmanager
def open_warehouse(settings: Settings, timeout_seconds: float = LOAD_TIMEOUT_SECONDS) -> Iterator[ClickHouseWarehouse]:
    """ClickHouse, reading objects from the same bucket.

    Args:
        settings: where the parts are.
        timeout_seconds: how long a statement may stay without an answer; `READER_TIMEOUT_SECONDS` where somebody waits.
    """
    warehouse = ClickHouseWarehouse.from_settings(settings, timeout_seconds)
    try:
        yield warehouse
    finally:
        warehouse.close()


@contextmanager
def open_retention(settings: Settings, runs: RunHistory | None) -> Iterator[RetentionParts]:
    """What `email_platform.runs.retention` needs, with the lease of its work.

    Args:
        settings: where the parts are, and for how long what is kept.
        runs: Dagster's runs; None where this process has no instance.

    Raises:
        CommandRefusedError: another process is removing now.
    """
    store = open_store(settings)
    with open_oltp(settings) as engine, try_work_lease(engine, "retention") as held:
        if isinstance(held, str):
            raise CommandRefusedError(f"{held} is removing now; one process at a time does")
        yield RetentionParts(
            PostgresLedgerArchive(engine, store),
            PostgresLeftovers(engine),
            runs,
            store,
            utc_now,
            KeptDays(
                settings.keep_ledger_days,
                settings.keep_run_days,
                settings.keep_raw_event_days,
                settings.keep_leftover_days,
            ),
            held,
        )


def open_erasures(settings: Settings, engine: Engine) -> PostgresErasures:
    """Requests to erase people, over this connection."""
    return PostgresErasures(engine, erasure_key(settings), LeadRelation.from_settings(settings))


@contextmanager
def open_erasure(settings: Settings) -> Iterator[EraseParts]:
    """What `email_platform.runs.erase` needs, with the lease of its work.

    Raises:
        CommandRefusedError: another process is erasing now.
    """
    with (
        open_oltp(settings) as engine,
        try_work_lease(engine, "erasure") as held,
        open_parts(settings) as parts,
        ExitStack() as opened,
    ):
        if isinstance(held, str):
            raise CommandRefusedError(f"{held} is erasing now; one process at a time does")
        warehouse = WarehousePerson(lambda: opened.enter_context(open_warehouse(settings)))
        yield EraseParts(parts, open_erasures(settings, engine), warehouse)


@contextmanager
def open_explain(settings: Settings) -> Iterator[ExplainParts]:
    """Where `email_platform.runs.explain` looks things up; nothing is connected before it is used."""
    with open_parts(settings) as parts, open_oltp(settings) as engine:
        emails = _LateEmailLookup(settings)
        leads = LeadRelation.from_settings(settings)
        try:
            suppressions = PostgresSuppressions(engine, erasure_key(settings), leads)
            yield ExplainParts(parts, PostgresLeadsNow(engine, leads), suppressions, emails)
        finally:
            emails.close()


class _LateEmailLookup:
    """The warehouse, connected at the first question: where it is away, that question fails and no other."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened = ExitStack()
        self._lookup: ClickHouseEmailLookup | None = None

    def of_campaign_and_lead(self, campaign_id: int, lead_id: int) -> Sequence[FoundEmail]:
        return self._connected().of_campaign_and_lead(campaign_id, lead_id)

    def of_address(self, address: str, limit: int) -> Sequence[FoundEmail]:
        return self._connected().of_address(address, limit)

    def close(self) -> None:
        self._opened.close()

    def _connected(self) -> ClickHouseEmailLookup:
        if self._lookup is None:
            warehouse = self._opened.enter_context(open_warehouse(self._settings, READER_TIMEOUT_SECONDS))
            self._lookup = ClickHouseEmailLookup(warehouse)
        return self._lookup
