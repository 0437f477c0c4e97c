{{ config(materialized='view') }}

select
    activity_date,
    reason,
    source,
    scope,
    sender_id,
    new_suppressions,
    sum(new_suppressions) over (
        partition by reason, source, sender_id
        order by activity_date
        rows between unbounded preceding and current row
    ) as cumulative_suppressions,
    (select maxOrNull(snapshot_at) from {{ ref('stg_suppressions') }}) as as_of
from (
    select
        toDate(created_on) as activity_date,
        reason,
        source,
        toLowCardinality(if(listed.sender_id is null, 'every_sender', 'one_sender')) as scope,
        ifNull(listed.sender_id, 0) as sender_id,
        suppressions as new_suppressions
    from {{ ref('stg_suppressions') }} as listed
    where is_removed = 0
)
