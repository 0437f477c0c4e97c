{{ config(materialized='view') }}

-- depends_on: {{ ref('stg_deliveries') }}
-- depends_on: {{ ref('int_changed_deliveries') }}
-- depends_on: {{ ref('int_events_to_match') }}

-- Which delivery an event is about, by the best that it carries: our message id; the provider's id together with the
-- recipient (Mailgun gives one id to all recipients of a call) or alone where it stands for one recipient; and for a late
-- bounce or complaint without any id, the newest delivery of the 30 days before to that address by that provider.
{% set none_carried = "toUUID('" ~ no_uuid() ~ "')" %}
{% set with_the_providers_id = 'message_id = ' ~ none_carried ~ " and provider_message_id != ''" %}
{% set with_the_recipient = 'message_id = ' ~ none_carried ~ " and provider_message_id = '' and type in ('bounced', 'complained')" %}
{% set about_the_event = 'event_key, type, subtype, event_rank, event_at, details, event_loaded_at' %}
with with_message_id as (
    select deliveries.campaign_id as campaign_id, deliveries.lead_id as lead_id, 'message_id' as matched_by, {{ about_the_event }}
    from {{ ref('int_events_to_match') }} as named
    inner join (
        select campaign_id, lead_id, message_id
        from {{ deliveries_to_compute() }}
    ) as deliveries on deliveries.message_id = named.message_id
    where named.message_id != {{ none_carried }} and named.campaign_id in (0, deliveries.campaign_id)
),

with_provider_message_id as (
    select deliveries.campaign_id as campaign_id, deliveries.lead_id as lead_id, 'provider_message_id' as matched_by, {{ about_the_event }}
    from {{ ref('int_events_to_match') }} as named
    inner join (
        select
            campaign_id,
            lead_id,
            provider,
            provider_message_id,
            lower(email) as address,
            count() over (partition by provider, provider_message_id) as recipients_of_the_id
        from {{ ref('stg_deliveries') }}
        where {{ is_there_any(ref('int_events_to_match'), with_the_providers_id) }}
            and (provider, provider_message_id) {{ is_in() }} (
                select provider, provider_message_id
                from {{ ref('int_events_to_match') }}
                where {{ with_the_providers_id }}
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
    from {{ ref('int_events_to_match') }} as named
    inner join (
        select campaign_id, lead_id, provider, lower(email) as address, occurred_at
        from {{ ref('stg_deliveries') }}
        where {{ is_there_any(ref('int_events_to_match'), with_the_recipient) }}
            and outcome in ('accepted', 'unknown')
            and lower(email) {{ is_in() }} (
                select recipient
                from {{ ref('int_events_to_match') }}
                where {{ with_the_recipient }}
            )
    ) as deliveries on deliveries.provider = named.provider and deliveries.address = named.recipient
    where named.message_id = {{ none_carried }}
        and named.provider_message_id = ''
        and named.type in ('bounced', 'complained')
        and deliveries.occurred_at between named.event_at - interval 30 day and named.event_at
    order by event_key asc, deliveries.occurred_at desc, deliveries.campaign_id desc
    limit 1 by event_key
)

{% for way in ['with_message_id', 'with_provider_message_id', 'with_recipient_alone'] %}
select campaign_id, lead_id, matched_by, {{ about_the_event }}
from {{ way }}
{{ 'union all' if not loop.last }}
{% endfor %}
