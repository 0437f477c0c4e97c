{{ config(materialized='view') }}

{% set counts = outcome_counts() %}
with domains as (
    select
        recipient_domain,
        provider,
        activity_date,
        {% for name in counts %}
        sum(counted.{{ name }}) as {{ name }}{{ ',' if not loop.last }}
        {% endfor %}
    from {{ ref('int_campaign_domains') }} as counted
    group by recipient_domain, provider, activity_date
)

select
    recipient_domain,
    provider,
    activity_date,
    {% for name in counts %}
    {{ name }},
    {% endfor %}
    {{ rate('delivered_rate') }},
    {{ rate('hard_bounce_rate') }},
    {{ rate('soft_bounce_rate') }},
    {{ rate('complaint_rate') }},
    {{ as_of() }}
from domains
