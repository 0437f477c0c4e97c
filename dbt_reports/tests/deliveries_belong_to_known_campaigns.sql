{{ config(severity='warn', meta={'dagster': {'ref': {'name': 'int_campaign_outcomes'}}}) }}
-- A delivery whose campaign no snapshot shows is not in campaign_summary: the dimensions are behind or not refreshed.
select outcomes.campaign_id
from {{ ref('int_campaign_outcomes') }} as outcomes
where outcomes.campaign_id {{ is_not_in() }} (select campaign_id from {{ ref('stg_campaigns') }} where frozen_at is not null)
    and outcomes.campaign_id {{ is_not_in() }} (select campaign_id from {{ ref('int_legacy_campaigns') }})
