{{ config(materialized='view') }}

select campaign_id, user_id, subject, old_rows, leads, first_created_at, last_sent_at, learnt_at
from {{ ref('int_legacy_campaign_counts') }} final
