"""How a provider account is used now: its rate, and the campaigns before one of them."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine, text

from email_platform.adapters.postgres.rate_limit import ACTIVE_SECONDS
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.campaigns import Campaign
from email_platform.domain.odd_rows import is_odd_time
from email_platform.runs.campaign_state import AccountUse
from email_platform.sending.rate_limit import AccountRate

_RATE = text(
    """
    select
        least(1, share + :recovery * extract(epoch from clock_timestamp() - share_at))::float8 as share,
        greatest(0, extract(epoch from blocked_until - clock_timestamp()))::float8 as blocked_seconds,
        greatest(
            0,
            extract(epoch from recipients_due_at - clock_timestamp()),
            extract(epoch from calls_due_at - clock_timestamp())
        )::float8 as booked_seconds,
        (
            select count(*)
            from provider_rate_flow
            where
                provider_rate_flow.account = provider_rate.account
                and seen_at > clock_timestamp() - make_interval(secs => :active_seconds)
        ) as campaigns
    from provider_rate
    where account = :account
    """
)

# Sending campaigns count as before any other; of two queued ones the one that was queued
# first; those whose time comes later not at all. Recipients are as they were last counted, which may be too many.
_BEFORE = text(
    """
    with open_campaign as (
        select
            campaign.id,
            campaign.status,
            campaign.queued_at,
            campaign.scheduled_at,
            sender.provider || '/' || sender.provider_account as account,
            case
                when campaign_manifest.campaign_id is null then campaign.estimated_rows
                else greatest(0, coalesce(campaign.estimated_rows, campaign_manifest.eligible_rows))
            end as left_rows
        from campaign
        inner join sender on campaign.sender_id = sender.id
        left join campaign_manifest on campaign.id = campaign_manifest.campaign_id
        where campaign.status in ('queued', 'sending') and campaign.id <> :campaign_id
    )
    select
        count(*) filter (where before) as campaigns_before,
        coalesce(sum(left_rows) filter (where before), 0)::bigint as recipients_before,
        count(*) filter (where before and left_rows is null) as uncounted_before,
        count(*) filter (where status = 'sending') as at_work,
        exists (
            select from chunk
            where campaign_id = :campaign_id and lease_holder is not null and lease_expires_at > clock_timestamp()
        ) as is_leased
    from (
        select
            left_rows,
            status,
            account = :account
            and (
                status = 'sending'
                or (
                    coalesce(scheduled_at, '-infinity') <= greatest(now(), cast(:scheduled_at as timestamptz))
                    and (
                        cast(:queued_at as timestamptz) is null
                        or (coalesce(queued_at, '-infinity'), id) < (cast(:queued_at as timestamptz), :campaign_id)
                    )
                )
            ) as before
        from open_campaign
    ) as judged
    """
)


class PostgresAccountUses:
    """`email_platform.runs.campaign_state.AccountUses` over the tables of rates and campaigns.

    Args:
        rate: what an account allows, by provider and account.
    """

    def __init__(self, engine: Engine, rate: Callable[[str, str], AccountRate]) -> None:
        self._engine = engine
        self._rate = rate

    def of(self, campaign: Campaign) -> AccountUse:
        """The account of this campaign's sender; see the Protocol."""
        sender = campaign.sender
        account = f"{sender.provider}/{sender.provider_account}"
        rate = self._rate(sender.provider, sender.provider_account)
        with oltp_transaction(self._engine) as connection:
            used = connection.execute(
                _RATE,
                {"account": account, "recovery": rate.recovery_per_second, "active_seconds": ACTIVE_SECONDS},
            ).one_or_none()
            before = connection.execute(
                _BEFORE,
                {
                    "account": account,
                    "campaign_id": campaign.campaign_id,
                    "queued_at": campaign.queued_at,
                    "scheduled_at": None if is_odd_time(campaign.scheduled_at) else campaign.scheduled_at,
                },
            ).one()
        limited = rate.is_limited and used is not None
        return AccountUse(
            account=account,
            recipients_per_second=rate.recipients_per_second,
            calls_per_second=rate.calls_per_second,
            share=used.share if used is not None and limited else 1.0,
            blocked_seconds=used.blocked_seconds if used is not None and limited else 0.0,
            booked_seconds=used.booked_seconds if used is not None and limited else 0.0,
            campaigns=used.campaigns if used is not None and limited else 0,
            campaigns_before=before.campaigns_before,
            recipients_before=before.recipients_before,
            uncounted_before=before.uncounted_before,
            at_work=before.at_work,
            is_leased=before.is_leased,
        )

    def owner_email(self, campaign: Campaign) -> str:
        """The address of the campaign's owner; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            return str(
                connection.execute(
                    text("select email from app_user where id = :owner_id"), {"owner_id": campaign.owner_id}
                ).scalar_one()
            )
