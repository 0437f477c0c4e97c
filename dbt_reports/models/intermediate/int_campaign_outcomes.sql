select
    campaign_id,
    sum(accepted) as accepted,
    sum(rejected) as rejected,
    sum(unknown) as unknown,
    sum(abandoned) as abandoned,
    min(first_sent_at) as first_sent_at,
    max(last_sent_at) as last_sent_at
from {{ ref('int_campaign_days') }}
group by campaign_id
