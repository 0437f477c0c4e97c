{{ config(meta={'dagster': {'ref': {'name': 'sender_activity'}}}) }}
-- Every outcome is in exactly one day of exactly one user.
{% set sums %}{% for name in outcome_counts() %}sum({{ name }}){{ ', ' if not loop.last }}{% endfor %}{% endset %}
select array({{ sums }}) as of_users
from {{ ref('sender_activity') }}
having of_users != (select array({{ sums }}) from {{ ref('int_campaign_outcomes') }})
