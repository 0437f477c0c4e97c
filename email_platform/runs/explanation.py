"""Explanations of what became of a lead: where they are looked up, and what they consist of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from email_platform.audience.condition_answers import LeadNow, LeadsNow
from email_platform.domain.found_email import EmailLookup, FoundEmail
from email_platform.events.suppression import Suppression
from email_platform.runs.parts import Parts

Verdict = Literal[
    "accepted",
    "rejected",
    "unknown",
    "abandoned",
    "waiting",
    "excluded",
    "not_in_audience",
    "not_frozen",
    "imported",
    "cannot_say",
]
"""As deliveries; ``waiting``: in the audience and not called yet; ``not_frozen``: the audience is not chosen yet;
``imported``: the old system's email, in its own words.
"""
FactKind = Literal["campaign", "audience", "lead", "suppression", "call", "event", "old system", "not known"]


class AddressSuppressions(Protocol):
    """The suppression list by address."""

    def of_address(self, address: str) -> Sequence[Suppression]:
        """Every suppression of one normalised address."""
        ...


@dataclass(frozen=True, slots=True)
class ExplainParts:
    """Where answers are looked up.

    Attributes:
        parts: campaigns, manifests, ledger and bucket.
        emails: the warehouse; its methods raise PartUnavailableError where it does not answer.
    """

    parts: Parts
    leads: LeadsNow
    suppressions: AddressSuppressions
    emails: EmailLookup


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the timeline; `at` is None for what has no time, or is true now."""

    kind: FactKind
    text: str = field(repr=False)
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of one lead in one campaign.

    Attributes:
        summary: the answer in one sentence.
        facts: what it rests on: first what has a time, oldest first, then what is true now.
    """

    campaign_id: int
    lead_id: int
    verdict: Verdict
    summary: str = field(repr=False)
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class AddressHistory:
    """One address over all campaigns.

    Attributes:
        suppressions: on the list now.
        leads: that have the address now; None where finding them took too long.
        emails: of the warehouse, newest first: deliveries, exclusions and the old system's; None where it is away.
        open_campaigns: explanations for those leads in campaigns that have not ended, whose rows may not be loaded yet.
    """

    address: str = field(repr=False)
    suppressions: tuple[Suppression, ...]
    leads: tuple[LeadNow, ...] | None
    emails: tuple[FoundEmail, ...] | None
    open_campaigns: tuple[Explanation, ...]
