"""Leads and campaigns that the benchmarks of sending queue, and how they are sent without Dagster."""

from __future__ import annotations

import time
from itertools import count

from sqlalchemy import Engine, insert, text

from bench.send.newsletters import newsletter
from email_platform.adapters.postgres.tables import app_user, campaign, sender
from email_platform.domain.campaigns import CampaignStatus
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.parts import Parts
from email_platform.runs.send import send_chunk

_numbers = count(1)


def seed_leads(engine: Engine, city: str, how_many: int) -> None:
    """Leads of this city with the values that the newsletters name, and statistics of them for the planner."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into lead (email, first_name, last_name, city, plan, attributes) "
                "select :city || n || '@example.com', 'Ada ' || n, 'Lovelace', :city, 'pro',"
                " jsonb_build_object('points', n, 'score', n % 100) from generate_series(1, :how_many) n"
            ),
            {"city": city, "how_many": how_many},
        )
        connection.execute(text("analyze lead"))
    with engine.begin() as connection:  # else these rows are counted as the next campaign's, up to ten seconds later
        connection.execute(text("select pg_stat_force_next_flush()"))


def queue(engine: Engine, city: str, html_bytes: int = 2_000) -> int:
    """A campaign with a newsletter of this size to this city, queued now, of a user and sender of its own."""
    name = f"{city} {next(_numbers)} {time.monotonic_ns()}"
    with engine.begin() as connection:
        owner = connection.execute(
            insert(app_user).values(email=f"{time.monotonic_ns()}@example.com", name=name).returning(app_user.c.id)
        ).scalar_one()
        sender_id = connection.execute(
            insert(sender).values(owner_id=owner, from_address="a@example.com", from_name="A").returning(sender.c.id)
        ).scalar_one()
        return int(
            connection.execute(
                insert(campaign)
                .values(
                    owner_id=owner,
                    sender_id=sender_id,
                    name=name,
                    condition={"field": "city", "op": "eq", "value": city},
                    status=CampaignStatus.QUEUED,
                    queued_at=text("clock_timestamp()"),
                    **newsletter(html_bytes),
                )
                .returning(campaign.c.id)
            ).scalar_one()
        )


def send_all(parts: Parts, campaign_id: int, chunks: int) -> int:
    """Send every chunk in this process; returns the recipients accepted."""
    return sum(
        send_chunk(parts, campaign_id, chunk_index, holder="bench").progress.accepted for chunk_index in range(chunks)
    )


def send_here(parts: Parts, campaign_id: int) -> int:
    """What a campaign's run does, in this process; returns the recipients accepted."""
    accepted = send_all(parts, campaign_id, freeze_audience(parts, campaign_id).manifest.chunk_count)
    finish_sending(parts, campaign_id)
    return accepted
