{% set counts = outcome_counts() %}
select
    campaign_id,
    {% for name in counts %}
    sum({{ name }}) as {{ name }},
    {% endfor %}
    min(first_sent_at) as first_sent_at,
    max(last_sent_at) as last_sent_at
from {{ ref('int_campaign_hours') }}
group by campaign_id
