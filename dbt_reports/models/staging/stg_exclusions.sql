select
    campaign_id,
    lead_id,
    email,
    reason,
    loaded_at
from {{ source('warehouse', 'exclusion') }} final
