{{ config(materialized='view') }}

select
    lead_id,
    campaign_id,
    user_id,
    sender_id,
    email,
    provider,
    status,
    outcome,
    error,
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
from {{ ref('int_lead_states') }} final
where attempts > 0
