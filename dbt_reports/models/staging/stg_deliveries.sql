select
    campaign_id,
    lead_id,
    message_id,
    owner_id as user_id,
    sender_id,
    email,
    provider,
    provider_message_id,
    status as outcome,
    error_code,
    error_message,
    occurred_at,
    loaded_at
from {{ source('warehouse', 'delivery') }} final
