{{ config(materialized='view') }}

-- A view over the current states, which are ordered by (campaign_id, lead_id): a page of a campaign is a range read.
select
    user_id,
    campaign_id,
    lead_id,
    email,
    status,
    outcome,
    provider_message_id,
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
    {{ as_of() }}
from {{ ref('int_deliveries_current') }}
