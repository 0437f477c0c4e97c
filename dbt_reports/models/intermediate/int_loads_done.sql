{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        engine='ReplacingMergeTree()',
        order_by='(raw_table, source_object, loaded_at)'
    )
}}

-- Written after the states and the counts: a build that fails before takes the same loads in again, and what reads this to
-- say how new it is (the marts' as_of) does not promise what the counts have not.
-- depends_on: {{ ref('int_delivery_states') }}
-- depends_on: {{ ref('int_legacy_states') }}
-- depends_on: {{ ref('int_legacy_campaign_counts') }}
-- depends_on: {{ ref('int_lead_states') }}
-- depends_on: {{ ref('int_hour_counts') }}
-- depends_on: {{ ref('int_domain_counts') }}
select raw_table, source_object, loaded_at
from {{ ref('int_new_loads') }}
