"""What the endpoints work with; opened once a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine

from email_platform.adapters.assembly import account_rate, open_explain, open_oltp
from email_platform.adapters.clickhouse.recipients import ReportReader
from email_platform.adapters.postgres.account_use import PostgresAccountUses
from email_platform.adapters.postgres.api_keys import PostgresApiKeys
from email_platform.adapters.postgres.api_requests import PostgresApiRequests
from email_platform.adapters.postgres.lead_relation import LeadRelation
from email_platform.adapters.postgres.pages import PostgresPages
from email_platform.runs.campaign_state import AccountUses
from email_platform.runs.explanation import ExplainParts
from email_platform.runs.parts import Parts
from email_platform.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """What the endpoints work with.

    Attributes:
        explain: where explanations are looked up; has what a campaign's run needs as well.
        variables: of the environment, where provider accounts are read from; holds their secrets.
    """

    settings: Settings
    engine: Engine
    explain: ExplainParts
    accounts: AccountUses
    keys: PostgresApiKeys
    requests: PostgresApiRequests
    pages: PostgresPages
    reports: ReportReader
    leads: LeadRelation
    variables: Mapping[str, str] = field(repr=False)

    @property
    def parts(self) -> Parts:
        """What a campaign's run needs."""
        return self.explain.parts


OpenServices = Callable[[], AbstractContextManager[Services]]


@contextmanager
def open_services(settings: Settings, variables: Mapping[str, str]) -> Iterator[Services]:
    """Everything; nothing is connected before it is used.

    Args:
        settings: the validated settings.
        variables: where provider accounts are read from.
    """
    with open_explain(settings) as explain, open_oltp(settings) as engine:
        reports = ReportReader(settings)
        try:
            yield Services(
                settings=settings,
                engine=engine,
                explain=explain,
                accounts=PostgresAccountUses(engine, lambda provider, name: account_rate(provider, name, variables)),
                keys=PostgresApiKeys(engine),
                requests=PostgresApiRequests(engine),
                pages=PostgresPages(engine),
                reports=reports,
                leads=LeadRelation.from_settings(settings),
                variables=variables,
            )
        finally:
            reports.close()


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Work = Annotated[Services, Depends(_services)]
