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
    delivered / nullIf(delivered + bounced_hard + bounced_soft + blocked + rejected_later, 0) as delivered_rate,
    bounced_hard / nullIf(delivered + bounced_hard + bounced_soft + blocked + rejected_later, 0) as hard_bounce_rate,
    bounced_soft / nullIf(delivered + bounced_hard + bounced_soft + blocked + rejected_later, 0) as soft_bounce_rate,
    complained / nullIf(delivered, 0) as complaint_rate
from domains
