{{
    config(
        materialized='table',
        engine='MergeTree()',
        order_by='(campaign_id, lead_id)'
    )
}}

-- depends_on: {{ ref('stg_deliveries') }}
-- depends_on: {{ ref('int_new_loads') }}
-- depends_on: {{ source('warehouse', 'delivery') }}, {{ source('warehouse', 'event') }}
{% if all_states_are_to_be_built() %}
-- The states are built from all deliveries this time: there is nothing to choose.
select *
from {{ ref('stg_deliveries') }}
where false
{% else %}
with pointing as (
    select provider, type, toUUIDOrZero(message_id) as message_id, provider_message_id, lower(recipient) as recipient
    from {{ source('warehouse', 'event') }}
    where {{ is_newly_loaded('event') }}
    union all
    -- Where a new reading replaces an old one, the message that the old one was about changes too.
    select provider, type, toUUIDOrZero(message_id) as message_id, provider_message_id, lower(recipient) as recipient
    from {{ source('warehouse', 'event') }}
    where event_key in (
        select event_key
        from {{ source('warehouse', 'event') }}
        where {{ is_newly_loaded('event') }} and normaliser_version > 1
    )
),

changed as (
    select campaign_id, lead_id
    from {{ source('warehouse', 'delivery') }}
    where {{ is_newly_loaded('delivery') }}
    union distinct
    select campaign_id, lead_id
    from {{ source('warehouse', 'delivery') }}
    where message_id in (select message_id from pointing where message_id != toUUID('{{ no_uuid() }}'))
    union distinct
    select campaign_id, lead_id
    from {{ source('warehouse', 'delivery') }}
    where (provider, provider_message_id) in (
        select provider, provider_message_id
        from pointing
        where message_id = toUUID('{{ no_uuid() }}') and provider_message_id != ''
    )
    union distinct
    select campaign_id, lead_id
    from {{ source('warehouse', 'delivery') }}
    where lower(email) in (
        select recipient
        from pointing
        where message_id = toUUID('{{ no_uuid() }}') and provider_message_id = '' and recipient != ''
    )
)

select *
from {{ ref('stg_deliveries') }}
where (campaign_id, lead_id) in (select campaign_id, lead_id from changed)
{% endif %}
