{{ config(meta={'dagster': {'ref': {'name': 'int_legacy_campaigns'}}}) }}
-- The old table's campaigns and this platform's must not share ids, or two campaigns would be counted as one: let the new
-- ids begin after the old ones (docs/legacy_import.md).
select campaign_id
from {{ ref('int_legacy_campaigns') }}
where campaign_id {{ is_in() }} (select campaign_id from {{ ref('stg_campaigns') }} where frozen_at is not null)
