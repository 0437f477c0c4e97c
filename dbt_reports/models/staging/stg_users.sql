select
    id as user_id,
    email,
    name,
    created_at,
    ifNull(snapshot_at < {{ newest_snapshot_at('app_user') }}, 0) as is_deleted,
    snapshot_at
from {{ source('warehouse', 'app_user') }} final
