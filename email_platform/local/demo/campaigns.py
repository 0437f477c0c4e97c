"""The demo's users, senders and campaigns.

Invariant: every template renders for every demo lead, though names, cities, ages and figures have gaps; the
conditions use columns, attributes and negation, and select about 60 %, 15 % and 1 % of the leads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from email_platform.domain.campaigns import CampaignContent


@dataclass(frozen=True, slots=True)
class DemoOwner:
    """A user of the platform and the sender that they mail from."""

    name: str
    mailbox: str
    from_name: str
    from_address: str
    reply_to: str | None


@dataclass(frozen=True, slots=True)
class CampaignPlan:
    """A campaign as the demo queues it.

    Attributes:
        size: what share of the leads its condition is meant to select.
    """

    name: str
    owner: DemoOwner
    size: float
    condition: Mapping[str, Any]
    content: CampaignContent


_STYLE = (
    "font-family: -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif; font-size: 16px; "
    "line-height: 1.5; color: #1f2933"
)


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="{{{{ language | default('en') }}}}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title></head>
<body style="margin: 0; background: #f5f7fa; {_STYLE}">
<table role="presentation" width="100%" cellpadding="0" cellspacing="0"><tr><td align="center" style="padding: 24px">
<table role="presentation" width="600" cellpadding="0" cellspacing="0" style="background: #ffffff; border-radius: 8px">
<tr><td style="padding: 32px">
{body}
</td></tr></table>
<p style="font-size: 12px; color: #7b8794">You receive this because you signed up
{{%- if attributes.signup_source is defined %}} ({{{{ attributes.signup_source | replace('_', ' ') }}}}){{% endif %}}
 with {{{{ email }}}}.<br>
<a href="{{{{ unsubscribe_url }}}}">Unsubscribe with one click</a> ·
© {{{{ campaign.year }}}} {{{{ campaign.from_name }}}}
</p>
</td></tr></table></body></html>
"""


_TEXT_FOOTER = "\n\n-- \n{{ campaign.from_name }}\nUnsubscribe: {{ unsubscribe_url }}\n"

ANN = DemoOwner("Ann Berger", "ann.berger", "Ann at Northwind", "ann@news.example.com", "hello@example.com")
BILAL = DemoOwner("Bilal Haddad", "bilal.haddad", "Bilal from Northwind DACH", "bilal@dach.example.org", None)
CHIARA = DemoOwner("Chiara Conti", "chiara.conti", "Chiara Conti", "chiara@labs.example.net", "labs@example.net")

CAMPAIGN_PLANS: tuple[CampaignPlan, ...] = (
    CampaignPlan(
        name="Summer release, everyone in Europe and North America",
        owner=ANN,
        size=0.60,
        condition={
            "all": [
                {"field": "country", "op": "in", "value": ["US", "GB", "IE", "DE", "AT", "CH", "FR", "ES", "IT", "NL"]},
                {"field": "attributes.churn_risk", "op": "lt", "value": 0.45},
                {"not": {"field": "attributes.signup_source", "op": "eq", "value": "import"}},
            ]
        },
        content=CampaignContent(
            "{{ first_name | default('Hello') }}, the summer release is here",
            _page(
                "Summer release",
                """<h1 style="font-size: 24px">Hello {{ first_name | default('there') }},</h1>
<p>our summer release brings faster reports, shared calendars and a calmer inbox
{%- if city is defined %} to {{ city }}{% endif %}.</p>
{% if plan == 'free' %}<p><strong>On the free plan?</strong> Try everything for 30 days, no card needed.</p>
{% elif plan == 'enterprise' %}<p>Your account manager will call you about the roll-out for your teams.</p>
{% else %}<p>Everything is part of your {{ plan | title }} plan already.</p>{% endif %}
{% if attributes.tags is defined and attributes.tags %}<p>Picked for you:</p><ul>
{% for tag in attributes.tags %}<li>{{ tag | replace('-', ' ') | capitalize }}</li>
{% endfor %}</ul>{% endif %}
<p><a href="https://www.example.com/summer?c={{ campaign.id }}">See what is new</a></p>""",
            ),
            "Hello {{ first_name | default('there') }},\n\nour summer release brings faster reports, shared calendars "
            "and a calmer inbox.\nhttps://www.example.com/summer?c={{ campaign.id }}" + _TEXT_FOOTER,
        ),
    ),
    CampaignPlan(
        name="Treueaktion DACH",
        owner=BILAL,
        size=0.15,
        condition={
            "all": [
                {"field": "country", "op": "in", "value": ["DE", "AT", "CH"]},
                {"field": "language", "op": "eq", "value": "de"},
                {
                    "any": [
                        {"field": "attributes.lifetime_value", "op": "gte", "value": 1},
                        {"field": "plan", "op": "in", "value": ["pro", "enterprise"]},
                    ]
                },
            ]
        },
        content=CampaignContent(
            "{{ first_name | default('Hallo') }}: Danke für Ihre Treue"
            "{% if city is defined %} in {{ city }}{% endif %}",
            _page(
                "Danke für Ihre Treue",
                """<h1 style="font-size: 24px">Guten Tag
{{ first_name | default('') }} {{ last_name | default('') }},</h1>
{% if attributes.lifetime_value is defined and attributes.lifetime_value >= 100 %}
<p>Sie haben uns bisher {{ attributes.lifetime_value | round(2) }} € anvertraut.
Dafür gibt es 20 % auf das nächste Jahr.</p>
{% else %}
<p>Mit dem Kennwort <strong>DANKE{{ campaign.year }}</strong> gibt es 10 % auf das nächste Jahr.</p>
{% endif %}
<p><a href="https://www.example.org/treue?c={{ campaign.id }}">Einlösen</a></p>""",
            ),
            "Guten Tag {{ first_name | default('') }} {{ last_name | default('') }},\n\n"
            "mit DANKE{{ campaign.year }} gibt es 10 % auf das nächste Jahr." + _TEXT_FOOTER,
        ),
    ),
    CampaignPlan(
        name="Private beta, most valuable customers",
        owner=CHIARA,
        size=0.01,
        condition={
            "all": [
                {"field": "plan", "op": "in", "value": ["pro", "enterprise"]},
                {"field": "attributes.beta", "op": "eq", "value": True},
                {"field": "attributes.lifetime_value", "op": "gte", "value": 50},
                {"field": "age", "op": "gte", "value": 18},
            ]
        },
        content=CampaignContent(
            "{{ first_name | default('Hi') }}, your invitation to the private beta",
            _page(
                "Private beta",
                """<h1 style="font-size: 24px">{{ first_name | default('Hi') }}, you are invited.</h1>
<p>You have used {{ plan | title }} since before most of us worked here
{%- if attributes.last_seen_at is defined %} (last seen {{ attributes.last_seen_at.split('T')[0] }}){% endif %}.
Help us to shape what comes next{% if country is defined %} for {{ country }}{% endif %}.</p>
<p><a href="https://labs.example.net/beta?c={{ campaign.id }}">Join the beta</a></p>""",
            ),
            "{{ first_name | default('Hi') }}, you are invited to the private beta.\n"
            "https://labs.example.net/beta?c={{ campaign.id }}" + _TEXT_FOOTER,
        ),
    ),
)

_LOYALTY = CAMPAIGN_PLANS[1]
FOLLOW_UP_PLAN = CampaignPlan(
    name="Treueaktion DACH, Erinnerung",
    owner=_LOYALTY.owner,
    size=0.04,
    condition={"all": [_LOYALTY.condition, {"field": "plan", "op": "in", "value": ["pro", "enterprise"]}]},
    content=_LOYALTY.content,
)
"""For leads most of whom got the second campaign: those that bounced, complained or unsubscribed are left out."""
