"""Rows that campaign tests need in the OLTP database: leads of a city of their own, and a queued campaign."""

from __future__ import annotations

from itertools import count
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, insert, select

from email_platform.adapters.postgres.tables import app_user, campaign, lead, sender

_numbers = count(1)


def unique(name: str) -> str:
    """The name with something that no other test has."""
    return f"{name}-{next(_numbers)}-{uuid4().hex[:8]}"


def seed_leads(engine: Engine, rows: list[dict[str, Any]]) -> str:
    """Leads under a city of their own, so that each test's condition finds only its own; returns the city."""
    city = unique("city")
    with engine.begin() as connection:
        connection.execute(insert(lead), [{"city": city, "first_name": "Ada", **row} for row in rows])
    return city


def numbered(how_many: int) -> list[dict[str, Any]]:
    """Leads with addresses that nobody else has."""
    tag = unique("lead")
    return [{"email": f"{tag}-{number}@example.com"} for number in range(how_many)]


def queue_campaign(engine: Engine, condition: object, **values: Any) -> int:
    """A queued campaign of a user and sender of its own; returns its id."""
    with engine.begin() as connection:
        owner = connection.execute(
            insert(app_user)
            .values({"email": f"{unique('user')}@example.com", "name": "User", **values.pop("owner", {})})
            .returning(app_user.c.id)
        ).scalar_one()
        sender_id = connection.execute(
            insert(sender)
            .values(
                {
                    "owner_id": owner,
                    "from_address": "news@example.com",
                    "from_name": "News",
                    **values.pop("sender", {}),
                }
            )
            .returning(sender.c.id)
        ).scalar_one()
        return connection.execute(
            insert(campaign)
            .values(
                {
                    "owner_id": owner,
                    "sender_id": sender_id,
                    "name": unique("Campaign"),
                    "subject_template": "Hello {{ first_name }}",
                    "html_template": "<p>Hello {{ first_name }}</p><a href='{{ unsubscribe_url }}'>unsubscribe</a>",
                    "condition": condition,
                    "status": "queued",
                    **values,
                }
            )
            .returning(campaign.c.id)
        ).scalar_one()


def in_city(city: str) -> dict[str, Any]:
    """The condition that finds the leads of `seed_leads`."""
    return {"all": [{"field": "city", "op": "eq", "value": city}]}


def row_of(engine: Engine, campaign_id: int) -> Any:
    """The campaign's row."""
    with engine.connect() as connection:
        return connection.execute(select(campaign).where(campaign.c.id == campaign_id)).one()
