{{ config(engine='MergeTree()', order_by='campaign_id') }}

-- The manifest's counts come with the campaign's snapshot. Deliveries that were loaded before the snapshot that
-- knows their manifest are counted from the next snapshot on, so that every row adds up at any time.
with campaigns as (
    select
        campaign_id,
        name,
        user_id,
        status,
        status_reason,
        is_deleted,
        frozen_at,
        snapshot_at,
        finished_at,
        considered,
        eligible,
        excluded_suppressed,
        excluded_unsubscribed,
        excluded_invalid_address,
        excluded_duplicate_address
    from {{ ref('stg_campaigns') }}
),

users as (
    select user_id, name as user_name, email as user_email
    from {{ ref('stg_users') }}
),

outcomes as (
    select
        campaign_id as outcome_campaign_id,
        {% for name in outcome_counts() %}
        {{ name }},
        {% endfor %}
        first_sent_at,
        last_sent_at
    from {{ ref('int_campaign_outcomes') }}
    where campaign_id in (select campaign_id from campaigns where frozen_at is not null)
),

joined as (
    select
        campaigns.campaign_id as campaign_id,
        campaigns.name as name,
        campaigns.user_id as owner_id,
        users.user_name as owner_name,
        users.user_email as owner_email,
        campaigns.status as status,
        campaigns.status_reason as status_reason,
        campaigns.is_deleted as is_deleted,
        campaigns.considered as considered,
        campaigns.eligible as eligible,
        campaigns.excluded_suppressed as excluded_suppressed,
        campaigns.excluded_unsubscribed as excluded_unsubscribed,
        campaigns.excluded_invalid_address as excluded_invalid_address,
        campaigns.excluded_duplicate_address as excluded_duplicate_address,
        {% for name in outcome_counts() %}
        ifNull(outcomes.{{ name }}, 0) as {{ name }},
        {% endfor %}
        outcomes.first_sent_at as first_sent_at,
        outcomes.last_sent_at as last_sent_at,
        dateDiff('millisecond', outcomes.first_sent_at, outcomes.last_sent_at) / 1000 as duration_seconds,
        campaigns.finished_at as finished_at,
        campaigns.snapshot_at as snapshot_at
    from campaigns
    left join users on users.user_id = campaigns.user_id
    left join outcomes on outcomes.outcome_campaign_id = campaigns.campaign_id
)

select
    campaign_id,
    name,
    owner_id,
    owner_name,
    owner_email,
    status,
    status_reason,
    is_deleted,
    considered,
    eligible,
    excluded_suppressed + excluded_unsubscribed + excluded_invalid_address + excluded_duplicate_address as excluded,
    excluded_suppressed,
    excluded_unsubscribed,
    excluded_invalid_address,
    excluded_duplicate_address,
    accepted,
    rejected,
    unknown,
    abandoned,
    eligible - (accepted + rejected + unknown + abandoned) as not_attempted,
    delivered,
    bounced_hard,
    bounced_soft,
    rejected_later,
    complained,
    opened,
    clicked,
    unsubscribed,
    first_sent_at,
    last_sent_at,
    duration_seconds,
    accepted / nullIf(duration_seconds, 0) * 60 as emails_per_minute,
    accepted / nullIf(accepted + rejected + unknown + abandoned, 0) as accepted_rate,
    delivered / nullIf(delivered + bounced_hard + bounced_soft + rejected_later, 0) as delivered_rate,
    finished_at,
    snapshot_at
from joined
