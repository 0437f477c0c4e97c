{{ config(engine='MergeTree()', order_by='campaign_id') }}

-- The manifest's counts come with the campaign's snapshot. Deliveries that were loaded before the snapshot that
-- knows their manifest are counted from the next snapshot on, so that every row adds up at any time.
-- A campaign of the old system has no manifest: its audience is the leads of its rows, those only queued included.
with campaigns as (
    select
        campaign_id,
        name,
        user_id,
        status,
        status_reason,
        is_deleted,
        frozen_at is not null as has_audience,
        frozen_at,
        snapshot_at,
        finished_at,
        considered,
        eligible,
        excluded_suppressed,
        excluded_unsubscribed,
        excluded_invalid_address,
        excluded_duplicate_address,
        excluded_unreadable,
        staged
    from {{ ref('stg_campaigns') }}
    where frozen_at is not null or campaign_id {{ is_not_in() }} (select campaign_id from {{ ref('int_legacy_campaigns') }})
    union all
    select
        old.campaign_id as campaign_id,
        ifNull(known.name, old.subject) as name,
        old.user_id as user_id,
        toLowCardinality('imported') as status,
        cast(null, 'Nullable(String)') as status_reason,
        ifNull(known.is_deleted, 0) as is_deleted,
        1 as has_audience,
        cast(null, 'Nullable(DateTime64(6, ''UTC''))') as frozen_at,
        toDateTime64(old.learnt_at, 6, 'UTC') as snapshot_at,
        old.last_sent_at as finished_at,
        old.leads as considered,
        old.leads as eligible,
        toInt64(0) as excluded_suppressed,
        toInt64(0) as excluded_unsubscribed,
        toInt64(0) as excluded_invalid_address,
        toInt64(0) as excluded_duplicate_address,
        toInt64(0) as excluded_unreadable,
        toInt64(0) as staged
    from {{ ref('int_legacy_campaigns') }} as old
    left any join {{ ref('stg_campaigns') }} as known on known.campaign_id = old.campaign_id
    where old.campaign_id {{ is_not_in() }} (select campaign_id from {{ ref('stg_campaigns') }} where frozen_at is not null)
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
    where campaign_id {{ is_in() }} (select campaign_id from campaigns where has_audience)
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
        campaigns.excluded_unreadable as excluded_unreadable,
        campaigns.staged as staged,
        {% for name in outcome_counts() %}
        ifNull(outcomes.{{ name }}, 0) as {{ name }},
        {% endfor %}
        outcomes.first_sent_at as first_sent_at,
        outcomes.last_sent_at as last_sent_at,
        dateDiff('millisecond', outcomes.first_sent_at, outcomes.last_sent_at) / 1000 as duration_seconds,
        -- From the freeze to the end: a tiny campaign has next to no time between its first and its last call.
        if(
            campaigns.frozen_at is null,
            dateDiff('millisecond', outcomes.first_sent_at, outcomes.last_sent_at),
            dateDiff('millisecond', campaigns.frozen_at, ifNull(campaigns.finished_at, outcomes.last_sent_at))
        ) / 1000 as sending_seconds,
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
    excluded_suppressed + excluded_unsubscribed + excluded_invalid_address + excluded_duplicate_address
        + excluded_unreadable as excluded,
    excluded_suppressed,
    excluded_unsubscribed,
    excluded_invalid_address,
    excluded_duplicate_address,
    excluded_unreadable,
    accepted,
    rejected,
    unknown,
    abandoned,
    eligible - (accepted + rejected + unknown + abandoned) as not_attempted,
    greatest(staged - (accepted + rejected + unknown + abandoned), 0) as not_loaded,
    delivered,
    bounced_hard,
    bounced_soft,
    blocked,
    rejected_later,
    complained,
    opened,
    clicked,
    unsubscribed,
    emails,
    first_sent_at,
    last_sent_at,
    duration_seconds,
    accepted / nullIf(sending_seconds, 0) * 60 as emails_per_minute,
    {{ rate('accepted_rate') }},
    {{ rate('delivered_rate') }},
    {{ rate('bounce_rate') }},
    {{ rate('open_rate') }},
    {{ rate('click_rate') }},
    {{ rate('complaint_rate') }},
    {{ rate('unsubscribe_rate') }},
    finished_at,
    snapshot_at,
    {{ as_of() }}
from joined
