"""What sending a campaign would mean: who, what, how many calls, for how long, and what may be wrong with it.

Invariant: a plan changes nothing, as a preview; where the time cannot be estimated it says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from email_platform.content.review import review_message
from email_platform.runs.campaign_state import AccountUse, AccountUses
from email_platform.runs.parts import Parts
from email_platform.runs.preview import CampaignPreview, preview_campaign

REVIEWED_MESSAGES = 20


@dataclass(frozen=True, slots=True)
class CampaignPlan:
    """A preview, and what it means.

    Attributes:
        warnings: by remark, how many of the reviewed messages it is about.
        reviewed: how many messages were looked at for it.
        calls: at least so many provider calls.
        alone_seconds: how long it takes where nobody else uses the account; None where the account has no rate.
        longest_seconds: the same where it shares the account with the campaigns before it; None where that cannot be
            estimated.
    """

    preview: CampaignPreview
    account: AccountUse
    warnings: Mapping[str, int]
    reviewed: int
    calls: int
    alone_seconds: float | None
    longest_seconds: float | None


def plan_campaign(parts: Parts, accounts: AccountUses, campaign_id: int, samples: int) -> CampaignPlan:
    """Resolve the audience, render and review the first messages, and estimate the time.

    Args:
        parts: the outside world.
        accounts: how its provider account is used.
        campaign_id: a campaign of any status; one whose audience is frozen is planned as it is frozen.
        samples: the preview has at least so many messages, where there are so many recipients.

    Raises:
        CampaignNotFoundError: no such campaign.
        InvalidConditionError, InvalidTemplateError, ConfigurationError: what would fail the campaign.
    """
    preview = preview_campaign(parts, campaign_id, max(samples, REVIEWED_MESSAGES))
    manifest = preview.manifest
    found: Counter[str] = Counter()
    messages = [message for message in preview.samples if not message.problem]
    for message in messages:
        found.update(review_message(message.subject, message.html, message.text, message.headers))
    account = accounts.of(preview.campaign)
    calls = sum(-(-manifest.chunk_size_rows(at) // manifest.call_rows) for at in range(manifest.chunk_count))
    alone = seconds_at_rate(account, manifest.eligible_rows, calls)
    return CampaignPlan(
        preview=preview,
        account=account,
        warnings=dict(found.most_common()),
        reviewed=len(messages),
        calls=calls,
        alone_seconds=alone,
        longest_seconds=longest_seconds(account, alone, manifest.call_rows),
    )


def seconds_at_rate(account: AccountUse, recipients: int, calls: int) -> float | None:
    """How long the account's rate, as it is throttled now, takes for so many; None without a rate."""
    times = [
        count / (limit * account.share)
        for count, limit in ((recipients, account.recipients_per_second), (calls, account.calls_per_second))
        if limit is not None
    ]
    return max(times, default=None)


def longest_seconds(account: AccountUse, alone_seconds: float | None, call_rows: int) -> float | None:
    """How long it takes at most where the campaigns before it use the account as well.

    They share the rate evenly, so it never has less than its even share; and once they are done it has all of the rate.
    None without a rate.
    """
    if alone_seconds is None:
        return None
    shared = alone_seconds * (account.campaigns_before + 1)
    before = seconds_at_rate(account, account.recipients_before, -(-account.recipients_before // call_rows))
    if before is None or account.uncounted_before:
        return shared
    return min(shared, alone_seconds + before)
