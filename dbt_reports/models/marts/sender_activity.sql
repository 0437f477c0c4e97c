{{ config(engine='MergeTree()', order_by='(user_id, activity_date)') }}

select
    user_id,
    activity_date,
    toInt64(uniqExact(campaign_id)) as campaigns,
    sum(accepted) as accepted,
    sum(rejected) as rejected,
    sum(unknown) as unknown,
    sum(abandoned) as abandoned
from {{ ref('int_campaign_days') }}
group by user_id, activity_date
