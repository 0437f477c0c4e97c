"""A campaign for the chaos suites, and the invariant that must hold when it has come to its end.

The provider's own log, the ledger's receipts, the Parquet objects and ClickHouse are compared message by message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow.parquet as pq

from email_platform.adapters.assembly import open_oltp, open_parts, open_warehouse
from email_platform.domain.ports import ObjectStore
from email_platform.domain.storage_layout import deliveries_prefix
from email_platform.errors import AccountingError
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.runs.load import account
from email_platform.sending.ledger import CampaignTotals
from email_platform.settings import Settings
from email_platform.staging.accounting import require_all
from tests.chaos.providers import BAD_DOMAIN, BLOCKED_DOMAIN
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, seed_leads, unique

OnUnknown = Literal["hold", "resend"]
BLOCKED = 3  # recipients whom the provider refuses one by one
ODD = 1  # recipients for whom there is no message
BAD = 2  # recipients for whose sake a provider refuses whole calls, where it does


class InvariantBrokenError(AssertionError):
    """The invariant does not hold; the message has the schedule, whose seed replays it."""


def queue_chaos_campaign(settings: Settings, provider_account: str, leads: int, on_unknown: OnUnknown) -> int:
    """A queued campaign to leads of its own, to some whom the provider refuses, and to some with odd rows."""
    rows = [
        *numbered(leads),
        *({"email": f"{unique('lead')}@{BLOCKED_DOMAIN}"} for _ in range(BLOCKED)),
        *({"email": f"{unique('lead')}@example.com", "first_name": None} for _ in range(ODD)),
        *({"email": f"{unique('lead')}@{BAD_DOMAIN}"} for _ in range(BAD)),
    ]
    rows.insert(leads // 3, rows.pop())
    rows.insert(leads // 2, rows.pop())
    with open_oltp(settings) as engine:
        city = seed_leads(engine, [*rows, {"email": "nobody"}])
        sender = {"provider_account": provider_account}
        return queue_campaign(engine, in_city(city), sender=sender, on_unknown=on_unknown)


@dataclass(frozen=True)
class Promise:
    """What is promised of one campaign, by what was done to it.

    Attributes:
        honours_keys: whether its provider honours idempotency keys.
        answers_lost: whether any attempt can have ended without an answer.
        most_unknown: how many recipients may be unknown where no keys are honoured.
        refuses_calls: whether its provider may refuse a whole call whose first attempt got no answer.
        abandoned: whether an operator abandoned what was unknown.
    """

    leads: int
    honours_keys: bool
    on_unknown: OnUnknown
    answers_lost: bool
    most_unknown: int
    refuses_calls: bool = False
    abandoned: bool = False


def _staged(store: ObjectStore, campaign_id: int) -> tuple[dict[str, str], dict[str, str]]:
    """Status and provider's id of every message, as the staged objects say."""
    outcomes: dict[str, str] = {}
    ids: dict[str, str] = {}
    for found in store.list(deliveries_prefix(campaign_id)):
        with store.reader(found.key) as reader:
            table = pq.read_table(reader, columns=["message_id", "status", "provider_message_id"])
        ids |= dict(zip(table["message_id"].to_pylist(), table["provider_message_id"].to_pylist(), strict=True))
        outcomes |= dict(zip(table["message_id"].to_pylist(), table["status"].to_pylist(), strict=True))
    return outcomes, ids


def hold(
    promise: Promise, settings: Settings, variables: Mapping[str, str], log: AcceptedLog, campaign_id: int
) -> CampaignTotals:
    """Compare every trace of a campaign that is sent, staged and loaded.

    Raises:
        InvariantBrokenError: says everything that does not hold.
    """
    problems = []
    with open_parts(settings, variables) as parts, open_warehouse(settings) as warehouse:
        totals = parts.ledger.totals(campaign_id)
        try:
            require_all(account(parts, warehouse, campaign_id))
        except AccountingError as error:
            problems.append(str(error))
        outcomes, ids = _staged(parts.store, campaign_id)
        in_warehouse = dict(
            warehouse.client.query(
                "select toString(message_id), status from delivery final where campaign_id = {id:Int64}",
                parameters={"id": campaign_id},
            ).result_rows
        )
    logged: dict[str, set[str]] = {}
    counted: Counter[str] = Counter()
    for row in log.rows(str(campaign_id)):
        counted[row.message_id] += 1
        logged.setdefault(row.message_id, set()).add(row.provider_message_id)
    accepted = {one for one, status in outcomes.items() if status == "accepted"}
    unknown = {one for one, status in outcomes.items() if status in ("unknown", "abandoned")}
    twice = sum(times > 1 for times in counted.values())
    eligible = promise.leads + BLOCKED + ODD + BAD
    if in_warehouse != outcomes:
        problems.append("the warehouse does not hold what the objects say")
    if any(ids[one] not in logged.get(one, ()) for one in accepted):
        problems.append("a receipt has a provider's message id that the provider gave to somebody else")
    if twice and not promise.answers_lost:
        problems.append("somebody was mailed twice without any unknown call")
    if len(outcomes) != eligible:
        problems.append(f"{eligible} eligible, {len(outcomes)} staged")
    if twice and (promise.honours_keys or promise.on_unknown == "hold"):
        problems.append(f"{twice} leads were mailed twice")
    if not accepted <= set(counted):
        problems.append(f"{len(accepted - set(counted))} accepted in the ledger but not by the provider")
    if not set(counted) - accepted <= unknown:
        problems.append("an acceptance of the provider's is neither accepted nor unknown here")
    problems += _problems_of_totals(promise, totals)
    if promise.honours_keys and unknown and not promise.refuses_calls:
        problems.append(f"{len(unknown)} unknown although keys are honoured")
    if len(unknown) > promise.most_unknown:
        problems.append(f"{len(unknown)} unknown, more than {promise.most_unknown}")
    if problems:
        raise InvariantBrokenError("; ".join(problems))
    return totals


def _problems_of_totals(promise: Promise, totals: CampaignTotals) -> list[str]:
    problems = []
    not_theirs = totals.rejected - BLOCKED - ODD - BAD
    if not_theirs > 0:
        problems.append(f"{not_theirs} recipients were used up by a refusal that was not theirs")
    if promise.abandoned and totals.unknown:
        problems.append(f"{totals.unknown} are unknown although an operator abandoned them")
    if totals.abandoned and not promise.abandoned:
        problems.append(f"{totals.abandoned} were abandoned by nobody")
    return problems
