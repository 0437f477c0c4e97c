{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        engine='ReplacingMergeTree(counted_up_to)',
        order_by='(campaign_id, user_id, sender_id, activity_hour)',
        settings={'non_replicated_deduplication_window': 0, 'replicated_deduplication_window': 0},
        on_schema_change='fail'
    )
}}

-- depends_on: {{ ref('int_computed_states') }}
{% set counts = outcome_counts() %}
with counted as (
    select
        campaign_id,
        user_id,
        sender_id,
        toStartOfHour(occurred_at, 'UTC') as activity_hour,
        {{ count_outcomes() }},
        minOrNullIf(occurred_at, outcome = 'accepted') as first_sent_at,
        maxOrNullIf(occurred_at, outcome = 'accepted') as last_sent_at
    from {{ ref('int_deliveries_current') }}
    where {{ is_to_be_counted() }}
    group by campaign_id, user_id, sender_id, activity_hour
    {% if is_incremental() %}
    union all
    select
        campaign_id,
        user_id,
        sender_id,
        activity_hour,
        {% for name in counts %}
        toInt64(0) as {{ name }},
        {% endfor %}
        null as first_sent_at,
        null as last_sent_at
    from {{ this }}
    where {{ is_to_be_counted() }}
    {% endif %}
)

select
    campaign_id,
    user_id,
    sender_id,
    activity_hour,
    {% for name in counts %}
    sum(counted.{{ name }}) as {{ name }},
    {% endfor %}
    min(counted.first_sent_at) as first_sent_at,
    max(counted.last_sent_at) as last_sent_at,
    {{ newest_state() }} as counted_up_to
from counted
group by campaign_id, user_id, sender_id, activity_hour
