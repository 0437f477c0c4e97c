select
    id,
    campaign_id,
    user_id,
    lead_id,
    email,
    subject,
    status,
    provider_message_id,
    error,
    sent_at,
    created_at,
    updated_at,
    loaded_at
from {{ source('warehouse', 'legacy_email') }} final
where is_deleted = 0
