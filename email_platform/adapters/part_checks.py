"""Asks every part of the outside world whether this platform could work with it now, one answer a part.

Invariant: a check changes nothing that lasts (one small object is written and removed), and one part's trouble
hides no other's: see `email_platform.adapters.health.asking`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any
from uuid import uuid4

from sqlalchemy import create_engine, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from email_platform.adapters.alerts import alert_targets, check_alert_urls
from email_platform.adapters.assembly import (
    account_rate,
    open_oltp,
    open_store,
    open_warehouse,
    provider_account,
    utc_now,
)
from email_platform.adapters.clickhouse.client import READER_TIMEOUT_SECONDS, clickhouse_errors
from email_platform.adapters.clickhouse.grants import GRANTS_FILE, check_rights
from email_platform.adapters.clickhouse.migrate import read_migrations
from email_platform.adapters.clickhouse.migrate import unapplied as unapplied_in_warehouse
from email_platform.adapters.health.asking import PartCheck, Question, ask_side_by_side
from email_platform.adapters.object_store_rights import rights_beyond_the_bucket
from email_platform.adapters.postgres.engine import CONNECT_TIMEOUT_SECONDS, check_connection
from email_platform.adapters.postgres.lead_relation import LeadRelation
from email_platform.adapters.postgres.migrate import unapplied as unapplied_in_oltp
from email_platform.adapters.postgres.people_relations import check_people
from email_platform.adapters.postgres.roles import check_roles, role_files
from email_platform.adapters.postgres.tables import sender as sender_table
from email_platform.adapters.providers import ProviderAccount, build_provider
from email_platform.adapters.sns_fetch import fetch_from_sns
from email_platform.domain.campaigns import Sender
from email_platform.domain.figures import duration_words
from email_platform.domain.storage_layout import EVENT_INBOX_PREFIX
from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.events.accounts import SIMULATOR_SECRET_VARIABLE, WebhookAccounts
from email_platform.settings import Settings, external_parts, variable_of

_SHOWN_RIGHTS = 10
_PROBE_PREFIX = "part-checks/"
_PATIENCE_SECONDS = 8.0  # a store that hangs is reported within ten seconds
_FOR_PRODUCTION = "deploy/grants has what production's credentials need"


def check_parts(settings: Settings, variables: Mapping[str, str]) -> Iterator[PartCheck]:
    """Ask PostgreSQL and about its roles, the leads, Dagster's storage, S3, ClickHouse, and about rights in both.

    The settings of accounts and of alerts are checked as well. What does not answer is reported within about 10 s.

    Args:
        settings: the validated settings.
        variables: where provider accounts are read from.
    """
    return ask_side_by_side(part_questions(settings, variables))


def part_questions(settings: Settings, variables: Mapping[str, str]) -> list[Question]:
    """The same as questions, for who asks more beside them; arguments as for `check_parts`."""
    postgres = f"start PostgreSQL, or correct {variable_of('postgres_url')}"
    store = f"start S3, or correct {variable_of('s3_endpoint_url')}"
    warehouse = f"start ClickHouse, or correct {variable_of('clickhouse_url')}; sending goes on, reports wait"
    return [
        Question("PostgreSQL", lambda: _check_oltp(settings), postgres),
        Question("PostgreSQL's roles", lambda: _check_roles(settings), postgres),
        # In our own table they are as PostgreSQL is.
        *([Question("leads", lambda: _check_leads(settings), postgres)] if settings.lead_relation else []),
        Question("Dagster's storage", lambda: _check_dagster_storage(settings, variables), postgres),
        Question("S3", lambda: _check_store(settings), store),
        Question("rights in S3", lambda: _check_store_rights(settings, variables), store),
        Question("ClickHouse", lambda: _check_warehouse(settings), warehouse),
        Question("rights in ClickHouse", lambda: _check_warehouse_rights(settings, variables), warehouse),
        Question("ClickHouse reads S3", lambda: _check_warehouse_reads_store(settings), warehouse),
        Question("provider accounts", lambda: _check_accounts(settings, variables), postgres),
        Question("alerts", lambda: _check_alerts(settings)),
    ]


def overview_questions(settings: Settings, variables: Mapping[str, str]) -> list[Question]:
    """Of these the three that everything needs, asked so that it can be done every few seconds: nothing is written."""
    by_part = {one.part: one for one in part_questions(settings, variables)}
    store = replace(by_part["S3"], ask=lambda: _list_store(settings))
    return [by_part["PostgreSQL"], store, by_part["ClickHouse"]]


def _list_store(settings: Settings) -> str:
    with closing(open_store(settings)) as store:
        store.oldest_of_first(EVENT_INBOX_PREFIX, 1)
        return f"answers for s3://{store.bucket}"


def _check_oltp(settings: Settings) -> str:
    with open_oltp(settings) as engine:
        check_connection(engine)
        with engine.connect() as connection:
            _require_migrated(unapplied_in_oltp(connection))
            found: Any = connection.exec_driver_sql(
                "select current_setting('server_version'),"
                " extract(epoch from clock_timestamp() - pg_postmaster_start_time())::float8"
            ).one()
        address = f"{engine.url.host}:{engine.url.port}/{engine.url.database}"
        version, up_seconds = found
        theirs = "".join(f"; {one}" for one in check_people(engine, settings))
        return f"{version} at {address}, schema up to date{theirs}, up {duration_words(round(up_seconds))}"


def _check_roles(settings: Settings) -> str:
    """Whether the roles of deploy/roles have the rights of their files; a system without them is none the worse."""
    with open_oltp(settings) as engine:
        check_connection(engine)
        with engine.connect() as connection:
            present, problems = check_roles(connection, files := role_files())
    if problems:
        more = f"\nand {len(problems) - _SHOWN_RIGHTS} more" if len(problems) > _SHOWN_RIGHTS else ""
        raise ConfigurationError(
            "\n".join(problems[:_SHOWN_RIGHTS]) + f"{more}\nrun `email-platform roles` as the tables' owner"
        )
    if not present:
        return f"none of deploy/roles are in use: every process has the rights of {engine.url.username}"
    return f"{len(present)} of {len(files)} are there, each with the rights of its file"


def _check_leads(settings: Settings) -> str:
    leads = LeadRelation.from_settings(settings)
    with open_oltp(settings) as engine:
        leads.source(engine)
        found = leads.look_up(engine)
    has_attributes = any(one.type and one.used_for.startswith("attributes.") for one in found.columns)
    missing = [
        one.name for one in found.columns if one.type is None and not (one.used_for == "attributes" and has_attributes)
    ]
    return f"in {found.name}, which is only read" + (f"; it has no {', '.join(missing)}" if missing else "")


def _check_dagster_storage(settings: Settings, variables: Mapping[str, str]) -> str:
    variable = variable_of("dagster_postgres_url")
    raw = variables.get(variable, "").strip()
    if raw and not raw.startswith("postgresql+psycopg2://"):
        raise ConfigurationError(
            f"{variable} must begin with postgresql+psycopg2://: dagster.yaml hands it to SQLAlchemy as it is, and "
            "another driver breaks Dagster's event log"
        )
    url = make_url(settings.dagster_postgres_url.get_secret_value())
    engine = create_engine(url, connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS})
    try:
        with engine.connect():
            return f"answers at {url.host}:{url.port}/{url.database}"
    except SQLAlchemyError:  # not chained: a driver's message may quote the URL
        pass
    finally:
        engine.dispose()
    raise PartUnavailableError(
        f"{url.host}:{url.port}/{url.database} does not take the connection: {variable}, or the database is missing"
    )


def _check_store(settings: Settings) -> str:
    with closing(open_store(settings, patience_seconds=_PATIENCE_SECONDS)) as store:
        key = f"{_PROBE_PREFIX}{uuid4()}"
        store.put(key, b"probe")
        found = store.get(key)
        listed = [each.key for each in store.list(key)]
        store.delete(key)
        if found != b"probe" or listed != [key]:
            raise PartUnavailableError(f"s3://{store.bucket}/{key} was not read or listed as it was written")
        return f"writes, lists, reads and deletes in s3://{store.bucket}"


def _check_warehouse(settings: Settings) -> str:
    with open_warehouse(settings, READER_TIMEOUT_SECONDS) as warehouse:
        _require_migrated(unapplied_in_warehouse(warehouse.client, read_migrations()))
        up_seconds = int(warehouse.client.command("select uptime()"))
        return f"{warehouse.client.server_version}, schema up to date, up {duration_words(up_seconds)}"


def _check_store_rights(settings: Settings, variables: Mapping[str, str]) -> str:
    """What `_check_store` does not need: whether the credentials may more than deploy/grants/s3-policies.json gives."""
    if "s3" not in external_parts(variables):
        return f"not asked: the embedded S3 has one key, which may everything; {_FOR_PRODUCTION}"
    beyond = rights_beyond_the_bucket(settings)
    if beyond:
        return f"more than needed: these credentials {', '.join(beyond)} (deploy/grants/s3-policies.json)"
    return (
        "its objects, and as far as can be asked nothing else; whether the bucket's policy may be changed is not asked"
    )


def _check_warehouse_rights(settings: Settings, variables: Mapping[str, str]) -> str:
    """Whether the user of the settings has what deploy/grants/clickhouse.sql gives the application."""
    if "clickhouse" not in external_parts(variables):
        return f"not asked: the embedded ClickHouse has one account and no users or roles; {_FOR_PRODUCTION}"
    if not GRANTS_FILE.exists():  # installed without deploy/
        return "not asked: deploy/grants/clickhouse.sql is not here"
    with open_warehouse(settings, READER_TIMEOUT_SECONDS) as warehouse, clickhouse_errors("the settings' address", []):
        rights = check_rights(warehouse.client, warehouse.database)
    if rights.missing:
        raise ConfigurationError(
            f"{rights.user} lacks {', '.join(rights.missing)}: run `email-platform migrate --clickhouse-grants` as a "
            "user with access management, and give this one the role email_platform_application"
        )
    if not rights.is_known:
        return f"not known: this release has no CHECK GRANT, so compare SHOW GRANTS of {rights.user} with deploy/grants"
    if rights.beyond:
        return f"more than needed: {rights.user} may also {', '.join(rights.beyond)} (deploy/grants/clickhouse.sql)"
    return f"{rights.user} has those of email_platform_application, and none of the wide ones that were asked about"


def _check_warehouse_reads_store(settings: Settings) -> str:
    """The load runs inside ClickHouse: its own way to the bucket counts, not ours."""
    key = f"{_PROBE_PREFIX}{uuid4()}"
    with (
        closing(open_store(settings, patience_seconds=_PATIENCE_SECONDS)) as store,
        open_warehouse(settings, READER_TIMEOUT_SECONDS) as warehouse,
    ):
        written = store.put(key, b"probe")
        try:
            found_bytes = warehouse.object_size_bytes(key)
        finally:
            store.delete(key)
    if found_bytes != written.size_bytes:
        raise PartUnavailableError(f"{key} has {written.size_bytes} bytes, but ClickHouse reads {found_bytes}")
    return "an object written here is read there"


def _check_alerts(settings: Settings) -> str:
    check_alert_urls(settings.alert_urls)
    targets = alert_targets(settings.alert_webhook_url, settings.alert_urls)
    return f"they go to {', '.join(targets)}" if targets else "no target is set, so nobody is called (docs/runbook.md)"


def _check_accounts(settings: Settings, variables: Mapping[str, str]) -> str:
    """Settings only: a call to a provider would cost something, or send something."""
    columns = sender_table.c
    with open_oltp(settings) as engine:
        check_connection(engine)
        with engine.connect() as connection:
            if not inspect(connection).has_table(sender_table.name):
                return "no sender yet"
            accounts = connection.execute(select(columns.provider, columns.provider_account).distinct()).all()
    problems = []
    webhooks = WebhookAccounts(_with_simulator_secret(settings, variables), fetch_from_sns, utc_now)
    without_events = []
    for provider, account in sorted((str(row[0]), str(row[1])) for row in accounts):
        sender = Sender(0, 0, "", "", None, provider, account)
        try:
            asyncio.run(_build_adapter(provider, provider_account(settings, sender, variables)))
            account_rate(provider, account, variables)
            if webhooks.find(provider, account) is None:
                without_events.append(f"{provider}/{account}")
        except ConfigurationError as problem:
            problems.append(f"{provider}/{account}: {problem}")
    if problems:
        raise ConfigurationError("\n".join(problems))
    if not accounts:
        return "no sender yet"
    found = f"{len(accounts)} in use, each with its settings"
    if without_events:
        found += f"; without webhook settings, so that their events are refused: {', '.join(without_events)}"
    return found


def _with_simulator_secret(settings: Settings, variables: Mapping[str, str]) -> Mapping[str, str]:
    """The variables as the receiver has them: the simulator's secret may come from ``embedded.env``."""
    secret = settings.provider_webhook_secret
    return {**({SIMULATOR_SECRET_VARIABLE: secret.get_secret_value()} if secret else {}), **variables}


async def _build_adapter(provider: str, account: ProviderAccount) -> None:
    """What a send step does before its first call; opens no connection."""
    await build_provider(provider, account).aclose()


def _require_migrated(missing: int) -> None:
    if missing:
        raise ConfigurationError(f"the schema is {missing} versions behind: run `email-platform migrate`")
