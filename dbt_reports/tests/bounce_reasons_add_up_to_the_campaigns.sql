{{ config(meta={'dagster': {'ref': {'name': 'bounce_reasons'}}}) }}
-- Every bounce, and every message that the provider never tried, has exactly one reason.
{% set problems = ['bounced_hard', 'bounced_soft', 'blocked', 'rejected_later'] %}
with reasons as (
    select
        campaign_id,
        {% for problem in problems %}
        sumIf(recipients, problem = '{{ problem }}') as {{ problem }}{{ ',' if not loop.last }}
        {% endfor %}
    from {{ ref('bounce_reasons') }}
    group by campaign_id
)

select campaign_id, {{ problems | join(', ') }}
from {{ ref('int_campaign_outcomes') }}
where (campaign_id, {{ problems | join(', ') }}) {{ is_not_in() }} (select campaign_id, {{ problems | join(', ') }} from reasons)
    and {{ problems | join(' + ') }} > 0
