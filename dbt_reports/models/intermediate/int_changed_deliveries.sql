{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        pre_hook=emptied(),
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
{% set no_message = "message_id = toUUID('" ~ no_uuid() ~ "')" %}
with pointing as (
    select campaign_id, provider, toUUIDOrZero(message_id) as message_id, provider_message_id, lower(recipient) as recipient
    from {{ source('warehouse', 'event') }}
    where {{ is_newly_loaded('event') }}
    union all
    -- Where a new reading replaces an old one, the message that the old one was about changes too.
    select campaign_id, provider, toUUIDOrZero(message_id) as message_id, provider_message_id, lower(recipient) as recipient
    from {{ source('warehouse', 'event') }}
    where {{ is_there_any(source('warehouse', 'event'), is_newly_loaded('event') ~ ' and normaliser_version > 1') }}
        and event_key {{ is_in() }} (
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
    where (campaign_id, message_id) {{ is_in() }} (
        select campaign_id, message_id
        from pointing
        where campaign_id != 0 and not {{ no_message }}
    )
    {% for columns, values, condition in [
        ('message_id', 'message_id', 'campaign_id = 0 and not ' ~ no_message),
        ('(provider, provider_message_id)', 'provider, provider_message_id', no_message ~ " and provider_message_id != ''"),
        ('lower(email)', 'recipient', no_message ~ " and provider_message_id = '' and recipient != ''"),
    ] %}
    union distinct
    select campaign_id, lead_id
    from {{ source('warehouse', 'delivery') }}
    where {{ is_there_any('pointing', condition) }}
        and {{ columns }} {{ is_in() }} (select {{ values }} from pointing where {{ condition }})
    {% endfor %}
)

select *
from {{ ref('stg_deliveries') }}
where (campaign_id, lead_id) {{ is_in() }} (select campaign_id, lead_id from changed)
    {{ or_is_to_be_recomputed() }}
{% endif %}
