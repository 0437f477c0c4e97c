{{ config(materialized='view') }}

select
    campaign_id,
    provider,
    recipient_domain,
    problem,
    toLowCardinality({{ reason_class('toString(reason_code)') }}) as reason_class,
    reason_code,
    sum(accepted + rejected + unknown + abandoned) as recipients,
    min(example_reason) as example_reason,
    min(activity_date) as first_activity_date,
    max(activity_date) as last_activity_date,
    {{ as_of() }}
from {{ ref('int_campaign_domains') }}
where problem != ''
group by campaign_id, provider, recipient_domain, problem, reason_code
