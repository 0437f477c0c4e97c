{{ config(materialized='view') }}

select {{ email_columns() }}
from {{ ref('int_platform_deliveries') }} as deliveries
left any join {{ ref('stg_campaigns') }} as campaigns on campaigns.campaign_id = deliveries.campaign_id

union all

-- The old system's emails as they were, also a second one to the same lead and those that were only queued.
select {{ old_email_columns() }}
from {{ ref('stg_legacy_emails') }}
