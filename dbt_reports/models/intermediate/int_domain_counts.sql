{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        engine='ReplacingMergeTree(counted_up_to)',
        order_by='(campaign_id, activity_date, provider, recipient_domain, problem, reason_code)',
        settings={'non_replicated_deduplication_window': 0, 'replicated_deduplication_window': 0},
        on_schema_change='fail'
    )
}}

-- depends_on: {{ ref('int_computed_states') }}
{% set counts = outcome_counts() %}
with deliveries as (
    select
        *,
        multiIf(
            status in ('bounced_hard', 'bounced_soft', 'blocked'), toString(status),
            status != 'rejected', '',
            outcome = 'rejected', 'rejected',
            'rejected_later'
        ) as problem,
        multiIf(
            problem = '', '',
            event_reason != '', event_reason,
            {{ delivery_error('error_code', 'error_message') }}
        ) as reason
    from {{ ref('int_deliveries_current') }}
    where {{ is_to_be_counted() }}
),

counted as (
    select
        campaign_id,
        toDate(occurred_at, 'UTC') as activity_date,
        provider,
        {{ recipient_domain('email') }} as recipient_domain,
        problem,
        if(problem = '', '', {{ reason_code('reason', "if(problem = 'rejected', error_code, '')") }}) as reason_code,
        {{ count_outcomes() }},
        min(substringUTF8(reason, 1, 200)) as example_reason
    from deliveries
    group by campaign_id, activity_date, provider, recipient_domain, problem, reason_code
    {% if is_incremental() %}
    union all
    select
        campaign_id,
        activity_date,
        provider,
        recipient_domain,
        problem,
        reason_code,
        {% for name in counts %}
        toInt64(0) as {{ name }},
        {% endfor %}
        null as example_reason
    from {{ this }}
    where {{ is_to_be_counted() }}
    {% endif %}
)

select
    campaign_id,
    activity_date,
    provider,
    recipient_domain,
    toLowCardinality(problem) as problem,
    toLowCardinality(assumeNotNull(reason_code)) as reason_code,
    {% for name in counts %}
    sum(counted.{{ name }}) as {{ name }},
    {% endfor %}
    ifNull(min(counted.example_reason), '') as example_reason,
    {{ newest_state() }} as counted_up_to
from counted
group by campaign_id, activity_date, provider, recipient_domain, problem, reason_code
