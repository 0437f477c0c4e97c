{{ config(meta={'dagster': {'ref': {'name': 'hourly_throughput'}}}) }}
-- Every outcome is in exactly one hour.
{% set sums %}{% for name in ['accepted', 'rejected', 'unknown', 'abandoned', 'emails'] %}sum({{ name }}){{ ', ' if not loop.last }}{% endfor %}{% endset %}
select array({{ sums }}) as of_hours
from {{ ref('hourly_throughput') }}
having of_hours != (select array({{ sums }}) from {{ ref('int_campaign_outcomes') }})
