{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        engine='ReplacingMergeTree(counted_at)',
        order_by='campaign_id',
        settings={'non_replicated_deduplication_window': 0, 'replicated_deduplication_window': 0},
        on_schema_change='fail'
    )
}}

-- depends_on: {{ ref('int_new_loads') }}

-- What the old table has about a campaign as a whole. A campaign with any row loaded since the last build is recounted,
-- and the newest count replaces those before.
select
    campaign_id,
    any(user_id) as user_id,
    argMin(subject, id) as subject,
    toInt64(count()) as old_rows,
    toInt64(uniqExact(lead_id)) as leads,
    min(created_at) as first_created_at,
    max(sent_at) as last_sent_at,
    max(loaded_at) as learnt_at,
    now64(6, 'UTC') as counted_at
from {{ ref('stg_legacy_emails') }}
{% if is_incremental() %}
where campaign_id {{ is_in() }} (
    select campaign_id
    from {{ source('warehouse', 'legacy_email') }}
    where {{ is_newly_loaded('legacy_email') }}
)
{{ or_is_to_be_recomputed() }}
{% endif %}
group by campaign_id
