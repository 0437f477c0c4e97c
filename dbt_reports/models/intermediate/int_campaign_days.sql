{{
    config(
        materialized='incremental',
        incremental_strategy='delete_insert',
        unique_key='campaign_id',
        engine='MergeTree()',
        order_by='(campaign_id, activity_date)',
        settings={'non_replicated_deduplication_window': 0, 'replicated_deduplication_window': 0},
        on_schema_change='fail'
    )
}}

-- The one scan of all deliveries. A campaign with any state computed since the last build is counted anew as a whole,
-- so a receipt that comes late, a bounce weeks after, or an outcome decided later also corrects the days before.
select
    campaign_id,
    user_id,
    toDate(occurred_at, 'UTC') as activity_date,
    {% for outcome in ['accepted', 'rejected', 'unknown', 'abandoned'] %}
    toInt64(countIf(outcome = '{{ outcome }}')) as {{ outcome }},
    {% endfor %}
    toInt64(countIf(status in ('delivered', 'opened', 'clicked', 'unsubscribed', 'complained'))) as delivered,
    toInt64(countIf(status = 'bounced_hard')) as bounced_hard,
    toInt64(countIf(status = 'bounced_soft')) as bounced_soft,
    toInt64(countIf(status = 'rejected' and outcome != 'rejected')) as rejected_later,
    toInt64(countIf(complained_at is not null)) as complained,
    toInt64(countIf(opened_at is not null)) as opened,
    toInt64(countIf(clicked_at is not null)) as clicked,
    toInt64(countIf(unsubscribed_at is not null)) as unsubscribed,
    toInt64(sum(emails)) as emails,
    minOrNullIf(occurred_at, outcome = 'accepted') as first_sent_at,
    maxOrNullIf(occurred_at, outcome = 'accepted') as last_sent_at,
    max(built_at) as last_built_at
from {{ ref('int_deliveries_current') }}
{% if is_incremental() %}
where campaign_id in (
    select campaign_id
    from {{ ref('int_deliveries_current') }}
    where built_at > (select max(last_built_at) from {{ this }})
)
{% endif %}
group by campaign_id, user_id, activity_date
