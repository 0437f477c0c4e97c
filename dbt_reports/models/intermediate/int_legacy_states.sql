{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        engine='ReplacingMergeTree(built_at)',
        order_by='(campaign_id, lead_id)',
        settings={'non_replicated_deduplication_window': 0, 'replicated_deduplication_window': 0},
        indexes=[{'name': 'built_at_range', 'definition': 'built_at type minmax granularity 1'}] + look_up_indexes(),
        query_settings={'join_use_nulls': 1, 'optimize_aggregation_in_order': 1},
        on_schema_change='fail'
    )
}}

-- depends_on: {{ ref('int_new_loads') }}

-- The old table has a row per email and mailed some leads twice; here it is a row per lead, with the number of emails.
-- Of several rows the one that says most counts: bounced, sent, failed, and of those the newest. A key that lost all
-- of its rows keeps a state with attempts = 0, which replaces the one before.
-- The table is ordered by (campaign_id, lead_id, id): aggregating in that order takes constant memory.
with rows_of_leads as (
    select
        *,
        multiIf(status = 'bounced', 4, status = 'sent', 3, status = 'failed', 2, status = 'queued', 0, 1) as says,
        ifNull(sent_at, updated_at) as answered_at
    from {{ source('warehouse', 'legacy_email') }} final
    {% if is_incremental() %}
    where (campaign_id, lead_id) {{ is_in() }} (
        select campaign_id, lead_id
        from {{ source('warehouse', 'legacy_email') }}
        where {{ is_newly_loaded('legacy_email') }}
    )
    {{ or_is_to_be_recomputed() }}
    {% endif %}
),

leads as (
    select
        campaign_id,
        lead_id,
        countIf(is_deleted = 0 and says > 0) as attempts,
        countIf(is_deleted = 0 and says >= 3) as emails,
        argMax(
            tuple(user_id, email, provider_message_id, toString(status), error, answered_at, updated_at, says),
            (is_deleted = 0, says, answered_at, id)
        ) as chosen,
        max(loaded_at) as learnt_at
    from rows_of_leads
    group by campaign_id, lead_id
)

select
    campaign_id,
    lead_id,
    toUUID('{{ no_uuid() }}') as message_id,
    chosen.1 as user_id,
    toInt64(0) as sender_id,
    chosen.2 as email,
    toLowCardinality('old_system') as provider,
    ifNull(chosen.3, '') as provider_message_id,
    toLowCardinality(multiIf(chosen.8 >= 3, 'accepted', chosen.8 = 2, 'rejected', 'unknown')) as outcome,
    -- The old table knows one kind of bounce; an SMTP reply of class 4 is a temporary one.
    toLowCardinality(multiIf(
        chosen.8 = 4 and startsWith(ifNull(chosen.5, ''), '4'), 'bounced_soft',
        chosen.8 = 4, 'bounced_hard',
        chosen.8 = 3, 'sent',
        chosen.8 = 2, 'rejected',
        'unknown'
    )) as status,
    toUInt8(0) as status_rank,
    toDateTime64(if(chosen.8 = 4, chosen.7, chosen.6), 3, 'UTC') as status_at,
    toLowCardinality('') as error_code,
    if(chosen.8 = 4, '', ifNull(chosen.5, '')) as error_message,
    if(chosen.8 = 4, ifNull(chosen.5, ''), '') as event_reason,
    toDateTime64(chosen.6, 3, 'UTC') as occurred_at,
    cast(null, 'Nullable(DateTime64(3, \'UTC\'))') as delivered_at,
    cast(null, 'Nullable(DateTime64(3, \'UTC\'))') as opened_at,
    cast(null, 'Nullable(DateTime64(3, \'UTC\'))') as clicked_at,
    cast(null, 'Nullable(DateTime64(3, \'UTC\'))') as unsubscribed_at,
    if(chosen.8 = 4, toDateTime64(chosen.7, 3, 'UTC'), null) as bounced_at,
    cast(null, 'Nullable(DateTime64(3, \'UTC\'))') as complained_at,
    toUInt32(0) as events,
    learnt_at,
    toUInt32(attempts) as attempts,
    toUInt32(emails) as emails,
    now64(6, 'UTC') as built_at
from leads
