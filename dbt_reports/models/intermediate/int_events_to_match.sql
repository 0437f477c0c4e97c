{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        pre_hook=emptied(),
        engine='MergeTree()',
        order_by='(message_id, event_key)'
    )
}}

-- depends_on: {{ ref('stg_events') }}
-- depends_on: {{ ref('int_changed_deliveries') }}
-- depends_on: {{ source('warehouse', 'event') }}

-- A table, because the three ways of finding an event's delivery read it several times, and making it sorts every event.
with events as (
    {% if all_states_are_to_be_built() %}
    select event_key, provider, type, subtype, status_rank, campaign_id, message_id, provider_message_id, recipient, occurred_at, details, loaded_at
    from {{ ref('stg_events') }}
    {% else %}
    -- The raw table is ordered by (campaign_id, message_id, event_key): the first two reads go by its key. A reading
    -- that was found here may have been replaced by one that is about another message.
    with found as (
        select *
        from {{ source('warehouse', 'event') }}
        where (campaign_id, message_id) {{ is_in() }} (
            select campaign_id, toString(message_id) from {{ ref('int_changed_deliveries') }} -- noqa: AL03
        )
        union all
        select *
        from {{ source('warehouse', 'event') }}
        where campaign_id = 0 and message_id {{ is_in() }} (
            select toString(message_id) from {{ ref('int_changed_deliveries') }}
        )
        union all
        select *
        from {{ source('warehouse', 'event') }}
        where message_id = '' and (provider, provider_message_id) {{ is_in() }} (
            select provider, provider_message_id
            from {{ ref('int_changed_deliveries') }}
            where provider_message_id != ''
        )
        union all
        select *
        from {{ source('warehouse', 'event') }}
        where message_id = '' and provider_message_id = '' and lower(recipient) {{ is_in() }} (
            select lower(email) from {{ ref('int_changed_deliveries') }}
        )
    ),

    readings as (
        select * from found
        union all
        select *
        from {{ source('warehouse', 'event') }}
        where normaliser_version > 1 and event_key {{ is_in() }} (select event_key from found)
    )

    select
        event_key,
        provider,
        type,
        subtype,
        status_rank,
        campaign_id,
        toUUIDOrZero(message_id) as message_id,
        provider_message_id,
        lower(recipient) as recipient,
        occurred_at,
        details,
        loaded_at
    from readings
    order by event_key asc, normaliser_version desc, loaded_at desc, source_object desc
    limit 1 by event_key
    {% endif %}
)

select
    event_key,
    provider,
    type,
    subtype,
    status_rank as event_rank,
    campaign_id,
    message_id,
    provider_message_id,
    recipient,
    occurred_at as event_at,
    details,
    loaded_at as event_loaded_at
from events
where status_rank > 0
