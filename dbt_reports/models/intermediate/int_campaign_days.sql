{{
    config(
        materialized='incremental',
        incremental_strategy='delete_insert',
        unique_key='campaign_id',
        engine='MergeTree()',
        order_by='(campaign_id, activity_date)',
        settings={'non_replicated_deduplication_window': 0},
        on_schema_change='fail'
    )
}}

-- The one scan of all deliveries. A campaign with anything loaded since the last build is counted anew as a whole,
-- so a receipt that comes late, or an outcome decided weeks later, also corrects the days before.
-- The hour of overlap covers inserts that took their loaded_at before the last build and became visible after it:
-- a load is given up after 10 minutes.
select
    campaign_id,
    user_id,
    toDate(occurred_at, 'UTC') as activity_date,
    toInt64(countIf(status = 'accepted')) as accepted,
    toInt64(countIf(status = 'rejected')) as rejected,
    toInt64(countIf(status = 'unknown')) as unknown,
    toInt64(countIf(status = 'abandoned')) as abandoned,
    minOrNullIf(occurred_at, status = 'accepted') as first_sent_at,
    maxOrNullIf(occurred_at, status = 'accepted') as last_sent_at,
    max(loaded_at) as last_loaded_at
from {{ ref('stg_deliveries') }}
{% if is_incremental() %}
where campaign_id in (
    select campaign_id
    from {{ source('warehouse', 'delivery') }}
    where loaded_at > (select max(last_loaded_at) - interval 1 hour from {{ this }})
)
{% endif %}
group by campaign_id, user_id, activity_date
