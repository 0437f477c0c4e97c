{{ config(meta={'dagster': {'ref': {'name': 'campaign_recipients'}}}) }}
-- Of the three campaigns computed last, so that the cost does not grow with all that was ever sent.
select campaign_id, lead_id, count() as copies
from {{ ref('campaign_recipients') }}
where campaign_id {{ is_in() }} (
    select campaign_id
    from {{ ref('int_campaign_hours') }}
    group by campaign_id
    order by max(counted_up_to) desc
    limit 3
)
group by campaign_id, lead_id
having copies > 1
