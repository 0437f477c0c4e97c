{#- The emails of the mart `email` that have a key, found by `email_key` and not by reading a table: a view with a parameter
    (ClickHouse's documentation, CREATE VIEW, "Parameterized View"), `select * from email_of_lead(lead = 42)`.
    Current also between two refreshes: keys that are not in `email_key` yet are read from the newest loads of the raw tables
    (email_platform/adapters/clickhouse/key_index.py says why none is missed), and an email that the states do not know yet,
    or know by an older load, is shown as the raw row has it. Events count from the next refresh on, as `as_of` says.
    kind: of the key; text: of the key as the table of keys hashes it; condition: as in the filters of migrations 0027 and
    0029, since any other form reads every row. A fill counts half a minute after it was recorded: this is one statement, and the
    engine may open `email_key` before it knows up to when that is filled.
    is_of_old: whether the old system's emails have such a key. -#}
{% macro emails_by_key(kind, text, condition, is_of_old=true) -%}
{%- set email_key = source('warehouse', 'delivery').incorporate(path={'identifier': 'email_key'}) -%}
{%- set email_key_filled = source('warehouse', 'delivery').incorporate(path={'identifier': 'email_key_filled'}) -%}
with
{% for table in ['delivery'] + (['legacy_email'] if is_of_old else []) %}
keys_of_{{ table }} as (
    select campaign_id, lead_id
    from {{ email_key }}
    where kind = '{{ kind }}' and key_hash = toUInt32(cityHash64({{ text }})) and source = '{{ table }}'
    union all
    select campaign_id, lead_id
    from {{ source('warehouse', table) }}
    where
        loaded_at >= (
            select max(filled_to)
            from {{ email_key_filled }}
            where recorded_at < now64(3, 'UTC') - toIntervalSecond(30)
        )
        and {{ condition }}
),
{% endfor %}
deliveries as (
    select
        raw.campaign_id as campaign_id,
        raw.lead_id as lead_id,
        raw.message_id as message_id,
        raw.user_id as user_id,
        raw.email as email,
        raw.provider_message_id as provider_message_id,
        raw.error_code as error_code,
        raw.error_message as error_message,
        raw.occurred_at as occurred_at,
        ifNull(states.learnt_at >= raw.loaded_at, 0) as is_known,
        multiIf(is_known, toString(states.status), raw.outcome = 'accepted', 'sent', toString(raw.outcome)) as status,
        if(is_known, states.event_reason, '') as event_reason,
        if(is_known, states.learnt_at, raw.loaded_at) as learnt_at
    from (
        select *
        from {{ ref('stg_deliveries') }}
        where (campaign_id, lead_id) {{ is_in() }} (select campaign_id, lead_id from keys_of_delivery) and {{ condition }}
    ) as raw
    left any join (
        select campaign_id, lead_id, status, event_reason, learnt_at
        from {{ ref('int_delivery_states') }} final
        where (campaign_id, lead_id) {{ is_in() }} (select campaign_id, lead_id from keys_of_delivery)
    ) as states on states.campaign_id = raw.campaign_id and states.lead_id = raw.lead_id
)

select {{ email_columns() }}
from deliveries
left any join (
    select campaign_id, subject, frozen_at
    from {{ ref('stg_campaigns') }}
    where campaign_id {{ is_in() }} (select campaign_id from keys_of_delivery)
) as campaigns on campaigns.campaign_id = deliveries.campaign_id

{%- if is_of_old %}

union all

select {{ old_email_columns() }}
from (
    select *
    from {{ ref('stg_legacy_emails') }}
    where (campaign_id, lead_id) {{ is_in() }} (select campaign_id, lead_id from keys_of_legacy_email) and {{ condition }}
)
{%- endif %}

{%- endmacro %}
