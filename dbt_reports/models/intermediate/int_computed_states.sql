{{ config(materialized='view') }}

-- Of the states of every origin what changed since a moment, without the cost of `final` over all of them: a key may stand
-- here several times, and the newest built_at counts; and a key of the old system that lost all of its rows stands here with
-- attempts = 0, while int_deliveries_current no longer has it.
{% set columns = [
    'campaign_id', 'lead_id', 'user_id', 'sender_id', 'email', 'provider', 'outcome', 'status', 'status_at', 'error_code',
    'error_message', 'event_reason', 'occurred_at', 'delivered_at', 'opened_at', 'clicked_at', 'unsubscribed_at',
    'bounced_at', 'complained_at',
] | join(', ') %}
select {{ columns }}, cast(outcome = 'accepted', 'UInt32') as emails, toUInt32(1) as attempts, built_at
from {{ ref('int_delivery_states') }}
union all
select {{ columns }}, emails, attempts, built_at
from {{ ref('int_legacy_states') }}
