{{ config(materialized='view') }}

select
    activity_hour,
    campaign_id,
    sender_id,
    user_id,
    accepted,
    rejected,
    unknown,
    abandoned,
    emails,
    first_sent_at,
    last_sent_at,
    accepted / nullIf(dateDiff('millisecond', first_sent_at, last_sent_at) / 1000, 0) as accepted_per_second,
    {{ as_of() }}
from {{ ref('int_campaign_hours') }}
