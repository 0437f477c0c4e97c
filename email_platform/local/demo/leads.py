"""Fills the OLTP database with the demo's leads, users, senders and queued campaigns.

Invariant: the leads of one seed are numbered from the first on without a gap, however often and by whichever process
they are seeded; a second call adds only what is missing. All of it happens in one transaction, under a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, literal, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as insert_or_skip

from email_platform.adapters.postgres.tables import app_user, campaign, lead, sender, suppression
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.audience.conditions import parse_condition
from email_platform.content.compile import check_content, compile_content
from email_platform.domain.campaigns import CampaignStatus
from email_platform.local.demo.campaigns import CAMPAIGN_PLANS, FOLLOW_UP_PLAN, CampaignPlan, DemoOwner
from email_platform.local.demo.lead_rows import COPY_COLUMNS, lead_blocks

_LOCK_KEY = 0x64656D6F  # "demo"
_SUPPRESSION_REASONS = ("hard_bounce", "hard_bounce", "complaint", "unsubscribe", "manual")
_INSERT_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class DemoCampaign:
    """One queued campaign of the demo and its owner."""

    campaign_id: int
    owner_id: int
    sender_id: int
    name: str


@dataclass(frozen=True, slots=True)
class DemoSeed:
    """What the database holds of one seed after `seed_demo`.

    Attributes:
        leads: all leads of the seed.
        added_leads: those of them that this call made.
        suppressed_addresses: entries of the suppression list that this call made.
        campaigns: made by this call, or the newest ones from before; in the order big, middle, small.
        resumed: the campaigns are from before and not all of them at an end.
    """

    seed: int
    leads: int
    added_leads: int
    suppressed_addresses: int
    campaigns: tuple[DemoCampaign, ...]
    resumed: bool = False


def seed_demo(
    engine: Engine,
    leads: int,
    seed: int,
    *,
    queue_campaigns: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> DemoSeed:
    """Have at least so many leads of this seed in the database, three users with senders, and three campaigns.

    Args:
        engine: the migrated OLTP database, by psycopg.
        leads: how many; a database that has more keeps them.
        seed: names the leads; another seed's leads stay beside them.
        queue_campaigns: queue three fresh campaigns even where the seed has some already, unless those are still
            under way: a demo that was interrupted goes on.
        on_progress: called with the number of leads made by this call so far.

    Raises:
        ValueError: a negative number.
        PartUnavailableError: PostgreSQL is away; nothing was changed.
    """
    if leads < 0 or seed < 0:
        raise ValueError("leads and seed: must not be negative")
    with oltp_transaction(engine) as connection:
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK_KEY)))
        senders = {plan.owner: _have_owner(connection, plan.owner, seed) for plan in CAMPAIGN_PLANS}
        existing = _count_leads(connection, seed)
        suppressed = 0
        if leads > existing:
            sender_ids = [sender_id for _, sender_id in senders.values()]
            suppressed = _copy_leads(connection, seed, existing, leads, sender_ids, on_progress)
            connection.execute(text("analyze lead"))  # the planner's estimates decide the campaigns' priorities
        campaigns = _newest_campaigns(connection, senders)
        resumed = _are_under_way(connection, campaigns)
        if not campaigns or (queue_campaigns and not resumed):
            campaigns = tuple(_queue_campaign(connection, plan, *senders[plan.owner]) for plan in CAMPAIGN_PLANS)
    return DemoSeed(seed, max(leads, existing), max(leads - existing, 0), suppressed, campaigns, resumed)


def queue_follow_up(engine: Engine, seed: int) -> DemoCampaign:
    """Queue a fresh `FOLLOW_UP_PLAN` for leads that were seeded before.

    Raises:
        PartUnavailableError: PostgreSQL is away; nothing was changed.
    """
    with oltp_transaction(engine) as connection:
        owner = _have_owner(connection, FOLLOW_UP_PLAN.owner, seed)
        return _queue_campaign(connection, FOLLOW_UP_PLAN, *owner)


def _count_leads(connection: Connection, seed: int) -> int:
    of_seed = lead.c.attributes.contains(literal({"demo_seed": seed}, JSONB))
    return connection.execute(select(func.count()).select_from(lead).where(of_seed)).scalar_one()


def _copy_leads(
    connection: Connection,
    seed: int,
    first_lead: int,
    last_lead: int,
    sender_ids: Sequence[int],
    on_progress: Callable[[int], None],
) -> int:
    """Copy the leads in and suppress some of their addresses; returns the number of suppressed addresses."""
    suppressed: list[str] = []
    made = 0
    driver: Any = connection.connection.driver_connection
    columns = ", ".join(COPY_COLUMNS)
    with driver.cursor() as cursor, cursor.copy(f"copy lead ({columns}) from stdin") as copy:
        for block in lead_blocks(seed, first_lead, last_lead):
            copy.write("".join(block.lines))
            suppressed += block.suppressed_addresses  # 0.5 % of the leads: 400 KB for a million
            made += len(block.lines)
            on_progress(made)
    entries = [
        {
            "address": address,
            # One in four has only left one sender's list; the others get no mail from any sender.
            "sender_id": sender_ids[index // 4 % len(sender_ids)] if index % 4 == 0 else None,
            "reason": _SUPPRESSION_REASONS[index % len(_SUPPRESSION_REASONS)],
            "source": f"demo-{seed}",
        }
        for index, address in enumerate(suppressed)
    ]
    for start in range(0, len(entries), _INSERT_ROWS):
        some = entries[start : start + _INSERT_ROWS]
        connection.execute(insert_or_skip(suppression).on_conflict_do_nothing(), some)
    return len(entries)


def _have_owner(connection: Connection, owner: DemoOwner, seed: int) -> tuple[int, int]:
    """The ids of the user and of their sender, made where they are missing."""
    email = f"{owner.mailbox}.{seed}@example.com"
    connection.execute(
        insert_or_skip(app_user).values(email=email, name=owner.name).on_conflict_do_nothing(index_elements=["email"])
    )
    owner_id: int = connection.execute(select(app_user.c.id).where(app_user.c.email == email)).scalar_one()
    found = select(sender.c.id).where(sender.c.owner_id == owner_id).order_by(sender.c.id).limit(1)
    sender_id: int | None = connection.execute(found).scalar_one_or_none()
    if sender_id is None:
        sender_id = connection.execute(
            insert(sender)
            .values(
                owner_id=owner_id,
                from_address=owner.from_address,
                from_name=owner.from_name,
                reply_to=owner.reply_to,
                provider="simulator",
            )
            .returning(sender.c.id)
        ).scalar_one()
    return owner_id, sender_id


def _newest_campaigns(connection: Connection, senders: dict[DemoOwner, tuple[int, int]]) -> tuple[DemoCampaign, ...]:
    """The newest campaign of each plan, or none at all where one of them is missing."""
    found: list[DemoCampaign] = []
    for plan in CAMPAIGN_PLANS:
        owner_id, sender_id = senders[plan.owner]
        newest = select(func.max(campaign.c.id)).where(campaign.c.owner_id == owner_id, campaign.c.name == plan.name)
        campaign_id: int | None = connection.execute(newest).scalar_one()
        if campaign_id is None:
            return ()
        found.append(DemoCampaign(campaign_id, owner_id, sender_id, plan.name))
    return tuple(found)


def _are_under_way(connection: Connection, campaigns: Sequence[DemoCampaign]) -> bool:
    ids = [one.campaign_id for one in campaigns]
    under_way = (CampaignStatus.QUEUED, CampaignStatus.SENDING)
    found = select(func.count()).where(campaign.c.id.in_(ids), campaign.c.status.in_(under_way))
    return connection.execute(found).scalar_one() > 0


def _queue_campaign(connection: Connection, plan: CampaignPlan, owner_id: int, sender_id: int) -> DemoCampaign:
    parse_condition(plan.condition)
    check_content(compile_content(plan.content))
    campaign_id: int = connection.execute(
        insert(campaign)
        .values(
            owner_id=owner_id,
            sender_id=sender_id,
            name=plan.name,
            subject_template=plan.content.subject_template,
            html_template=plan.content.html_template,
            text_template=plan.content.text_template,
            condition=plan.condition,
            status=CampaignStatus.QUEUED,
            queued_at=func.clock_timestamp(),
        )
        .returning(campaign.c.id)
    ).scalar_one()
    return DemoCampaign(campaign_id, owner_id, sender_id, plan.name)
