{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        engine='ReplacingMergeTree(built_at)',
        order_by='(campaign_id, lead_id)',
        settings={'non_replicated_deduplication_window': 0, 'replicated_deduplication_window': 0},
        indexes=[{'name': 'built_at_range', 'definition': 'built_at type minmax granularity 1'}] + look_up_indexes(),
        on_schema_change='fail'
    )
}}

-- depends_on: {{ ref('int_changed_deliveries') }}
-- depends_on: {{ ref('stg_deliveries') }}

-- A delivery with anything new about it is recomputed from all that is known about it, and its row replaces the
-- one before. So the newest row counts, not the highest rank: a reading that was mended may take a status back.
with events_of_deliveries as (
    select
        campaign_id,
        lead_id,
        max(event_rank) as status_rank,
        argMax(multiIf(type = 'bounced', concat('bounced_', subtype), type = 'accepted', 'sent', type), (event_rank, event_at)) as event_status,
        argMax(event_at, (event_rank, event_at)) as status_at,
        argMax(if(event_rank in (20, 30, 45, 80, 90, 100), details, ''), (event_rank, event_at)) as details,
        minOrNullIf(event_at, type = 'delivered') as delivered_at,
        minOrNullIf(event_at, type = 'opened') as opened_at,
        minOrNullIf(event_at, type = 'clicked') as clicked_at,
        minOrNullIf(event_at, type = 'unsubscribed') as unsubscribed_at,
        minOrNullIf(event_at, type = 'bounced') as bounced_at,
        minOrNullIf(event_at, type = 'complained') as complained_at,
        count() as events,
        max(event_loaded_at) as events_loaded_at
    from {{ ref('int_matched_events') }}
    group by campaign_id, lead_id
)

select
    deliveries.campaign_id as campaign_id,
    deliveries.lead_id as lead_id,
    deliveries.message_id as message_id,
    deliveries.user_id as user_id,
    deliveries.sender_id as sender_id,
    deliveries.email as email,
    deliveries.provider as provider,
    deliveries.provider_message_id as provider_message_id,
    deliveries.outcome as outcome,
    toLowCardinality(multiIf(
        events > 0, assumeNotNull(happened.event_status),
        deliveries.outcome = 'accepted', 'sent',
        toString(deliveries.outcome)
    )) as status,
    ifNull(happened.status_rank, 0) as status_rank,
    if(events > 0, assumeNotNull(happened.status_at), deliveries.occurred_at) as status_at,
    deliveries.error_code as error_code,
    deliveries.error_message as error_message,
    {{ event_reason("ifNull(happened.details, '')") }} as event_reason,
    deliveries.occurred_at as occurred_at,
    happened.delivered_at as delivered_at,
    happened.opened_at as opened_at,
    happened.clicked_at as clicked_at,
    happened.unsubscribed_at as unsubscribed_at,
    happened.bounced_at as bounced_at,
    happened.complained_at as complained_at,
    toUInt32(ifNull(happened.events, 0)) as events,
    greatest(deliveries.loaded_at, ifNull(happened.events_loaded_at, deliveries.loaded_at)) as learnt_at,
    now64(6, 'UTC') as built_at
from {{ ref('int_changed_deliveries') if is_incremental() else ref('stg_deliveries') }} as deliveries
left join events_of_deliveries as happened
    on happened.campaign_id = deliveries.campaign_id and happened.lead_id = deliveries.lead_id
