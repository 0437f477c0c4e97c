{{ config(materialized='view') }}
-- depends_on: {{ ref('stg_deliveries') }}
-- depends_on: {{ ref('int_changed_deliveries') }}
-- depends_on: {{ ref('stg_events') }}
-- depends_on: {{ source('warehouse', 'event') }}

-- Which delivery an event is about, by the best that it carries: our message id; the provider's id together with the
-- recipient (Mailgun gives one id to all recipients of a call) or alone where it stands for one recipient; and for a late
-- bounce or complaint without any id, the newest delivery of the 30 days before to that address by that provider.
{% set everything = all_states_are_to_be_built() %}
{% set none_carried = "toUUID('" ~ no_uuid() ~ "')" %}
with events as (
    {% if everything %}
    select event_key, provider, type, subtype, status_rank, campaign_id, message_id, provider_message_id, recipient, occurred_at, details, loaded_at
    from {{ ref('stg_events') }}
    {% else %}
    -- The raw table is ordered by (campaign_id, message_id, event_key): the first two reads go by its key. A reading
    -- that was found here may have been replaced by one that is about another message.
    with found as (
        select *
        from {{ source('warehouse', 'event') }}
        where (campaign_id, message_id) in (
            select campaign_id, toString(message_id) from {{ ref('int_changed_deliveries') }}
        )
        union all
        select *
        from {{ source('warehouse', 'event') }}
        where campaign_id = 0 and message_id in (
            select toString(message_id) from {{ ref('int_changed_deliveries') }}
        )
        union all
        select *
        from {{ source('warehouse', 'event') }}
        where message_id = '' and (provider, provider_message_id) in (
            select provider, provider_message_id
            from {{ ref('int_changed_deliveries') }}
            where provider_message_id != ''
        )
        union all
        select *
        from {{ source('warehouse', 'event') }}
        where message_id = '' and provider_message_id = '' and lower(recipient) in (
            select lower(email) from {{ ref('int_changed_deliveries') }}
        )
    ),

    readings as (
        select * from found
        union all
        select *
        from {{ source('warehouse', 'event') }}
        where normaliser_version > 1 and event_key in (select event_key from found)
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
    order by event_key, normaliser_version desc, loaded_at desc, source_object desc
    limit 1 by event_key
    {% endif %}
),

{% set about_the_event = 'event_key, type, subtype, event_rank, event_at, details, event_loaded_at' %}
named as (
    select *, status_rank as event_rank, occurred_at as event_at, loaded_at as event_loaded_at
    from events
    where status_rank > 0
),

with_message_id as (
    select deliveries.campaign_id as campaign_id, deliveries.lead_id as lead_id, 'message_id' as matched_by, {{ about_the_event }}
    from named
    inner join (
        select campaign_id, lead_id, message_id
        from {{ deliveries_to_compute() }}
    ) as deliveries on deliveries.message_id = named.message_id
    where named.message_id != {{ none_carried }} and named.campaign_id in (0, deliveries.campaign_id)
),

with_provider_message_id as (
    select deliveries.campaign_id as campaign_id, deliveries.lead_id as lead_id, 'provider_message_id' as matched_by, {{ about_the_event }}
    from named
    inner join (
        select
            campaign_id,
            lead_id,
            provider,
            provider_message_id,
            lower(email) as address,
            count() over (partition by provider, provider_message_id) as recipients_of_the_id
        from {{ ref('stg_deliveries') }}
        where (provider, provider_message_id) in (
            select provider, provider_message_id
            from named
            where message_id = {{ none_carried }} and provider_message_id != ''
        )
    ) as deliveries
        on deliveries.provider = named.provider and deliveries.provider_message_id = named.provider_message_id
    where named.message_id = {{ none_carried }}
        and named.provider_message_id != ''
        and named.campaign_id in (0, deliveries.campaign_id)
        and (deliveries.recipients_of_the_id = 1 or deliveries.address = named.recipient)
),

with_recipient_alone as (
    select
        deliveries.campaign_id as campaign_id,
        deliveries.lead_id as lead_id,
        'recipient' as matched_by,
        {{ about_the_event }}
    from named
    inner join (
        select campaign_id, lead_id, provider, lower(email) as address, occurred_at
        from {{ ref('stg_deliveries') }}
        where outcome in ('accepted', 'unknown') and lower(email) in (
            select recipient
            from named
            where message_id = {{ none_carried }} and provider_message_id = '' and type in ('bounced', 'complained')
        )
    ) as deliveries on deliveries.provider = named.provider and deliveries.address = named.recipient
    where named.message_id = {{ none_carried }}
        and named.provider_message_id = ''
        and named.type in ('bounced', 'complained')
        and deliveries.occurred_at between named.event_at - interval 30 day and named.event_at
    order by event_key, deliveries.occurred_at desc, deliveries.campaign_id desc
    limit 1 by event_key
)

{% for way in ['with_message_id', 'with_provider_message_id', 'with_recipient_alone'] %}
select campaign_id, lead_id, matched_by, {{ about_the_event }}
from {{ way }}
{{ 'union all' if not loop.last }}
{% endfor %}
