{{ config(meta={'dagster': {'ref': {'name': 'domain_deliverability'}}}) }}
-- Every outcome is in exactly one domain.
{% set sums %}{% for name in outcome_counts() %}sum({{ name }}){{ ', ' if not loop.last }}{% endfor %}{% endset %}
select array({{ sums }}) as of_domains
from {{ ref('domain_deliverability') }}
having of_domains != (select array({{ sums }}) from {{ ref('int_campaign_outcomes') }})
