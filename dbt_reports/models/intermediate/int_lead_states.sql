{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        engine='ReplacingMergeTree(built_at)',
        order_by='(lead_id, campaign_id)',
        indexes=[{'name': 'address_filter', 'definition': 'lower(email) type bloom_filter(0.001) granularity 1'}],
        settings={'non_replicated_deduplication_window': 0, 'replicated_deduplication_window': 0},
        on_schema_change='fail'
    )
}}

-- The states once more, in the order in which a lead's are one after the other: nothing but a copy of those that are new.
select
    lead_id,
    campaign_id,
    user_id,
    sender_id,
    email,
    provider,
    status,
    outcome,
    if(event_reason != '', event_reason, {{ delivery_error('error_code', 'error_message') }}) as error,
    occurred_at,
    status_at,
    delivered_at,
    opened_at,
    clicked_at,
    bounced_at,
    complained_at,
    unsubscribed_at,
    emails,
    attempts,
    built_at
from {{ ref('int_computed_states') }}
{% if is_incremental() %}
where built_at > (select max(built_at) from {{ this }})
{% endif %}
