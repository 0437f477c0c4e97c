{{ config(meta={'dagster': {'ref': {'name': 'lead_history'}}}) }}
-- Row by row, for a thousand leads of each of the three campaigns computed last: the cost does not grow with the history.
{% set columns = ['campaign_id', 'lead_id', 'email', 'status', 'error', 'emails'] | join(', ') %}
with some as (
    select campaign_id, lead_id
    from {{ ref('campaign_recipients') }}
    where campaign_id {{ is_in() }} (
        select campaign_id
        from {{ ref('int_campaign_hours') }}
        group by campaign_id
        order by max(counted_up_to) desc
        limit 3
    )
    order by campaign_id, lead_id
    limit 1000 by campaign_id
),

as_recipients as (
    select {{ columns }}
    from {{ ref('campaign_recipients') }}
    where (campaign_id, lead_id) {{ is_in() }} (select campaign_id, lead_id from some)
),

as_history as (
    select {{ columns }}
    from {{ ref('lead_history') }}
    where lead_id {{ is_in() }} (select lead_id from some) and (campaign_id, lead_id) {{ is_in() }} (select campaign_id, lead_id from some)
)

select {{ columns }}, count() as copies
from (
    select {{ columns }} from as_recipients
    union all
    select {{ columns }} from as_history
)
group by {{ columns }}
having copies != 2
