select
    id,
    created_on,
    reason,
    source,
    sender_id,
    suppressions,
    ifNull(snapshot_at < {{ newest_snapshot_at('suppression') }}, 0) as is_removed,
    snapshot_at
from {{ source('warehouse', 'suppression') }} final
