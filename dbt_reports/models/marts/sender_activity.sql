{{ config(engine='MergeTree()', order_by='(user_id, activity_date)') }}

select
    user_id,
    toDate(activity_hour, 'UTC') as activity_date,
    toInt64(uniqExact(campaign_id)) as campaigns,
    {% for name in outcome_counts() %}
    sum({{ name }}) as {{ name }},
    {% endfor %}
    {{ as_of() }}
from {{ ref('int_campaign_hours') }}
group by user_id, activity_date
