{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        engine='ReplacingMergeTree()',
        order_by='(raw_table, source_object, loaded_at)'
    )
}}

-- Written after the states, so a build that fails before them takes the same loads in again.
-- depends_on: {{ ref('int_delivery_states') }}
-- depends_on: {{ ref('int_legacy_states') }}
-- depends_on: {{ ref('int_legacy_campaign_counts') }}
select raw_table, source_object, loaded_at
from {{ ref('int_new_loads') }}
