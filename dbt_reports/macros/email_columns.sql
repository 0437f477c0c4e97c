{#- The columns of the old table `email` from a delivery's state (`deliveries`) and its campaign (`campaigns`). -#}
{% macro email_columns() %}
    toString(deliveries.message_id) as id,
    deliveries.campaign_id as campaign_id,
    deliveries.user_id as user_id,
    deliveries.lead_id as lead_id,
    deliveries.email as email,
    ifNull(campaigns.subject, '') as subject,
    toLowCardinality(multiIf(
        deliveries.status in ('bounced_hard', 'bounced_soft', 'blocked'), 'bounced',
        deliveries.status in ('rejected', 'abandoned'), 'failed',
        deliveries.status = 'unknown', 'unknown',
        'sent'
    )) as status,
    nullIf(deliveries.provider_message_id, '') as provider_message_id,
    if(
        deliveries.status = 'abandoned' and deliveries.error_code = '' and deliveries.error_message = '',
        'outcome unknown, abandoned',
        coalesce(
            nullIf(deliveries.event_reason, ''),
            nullIf({{ delivery_error('deliveries.error_code', 'deliveries.error_message') }}, '')
        )
    ) as error,
    if(deliveries.status in ('rejected', 'abandoned', 'unknown'), null, deliveries.occurred_at) as sent_at,
    toDateTime64(ifNull(campaigns.frozen_at, deliveries.occurred_at), 3, 'UTC') as created_at,
    deliveries.learnt_at as updated_at,
    {{ as_of() }}
{% endmacro %}

{#- The same of a row of the old system's table. -#}
{% macro old_email_columns() %}
    toString(id) as id,
    campaign_id,
    user_id,
    lead_id,
    email,
    subject,
    status,
    provider_message_id,
    error,
    toDateTime64(sent_at, 3, 'UTC') as sent_at,
    toDateTime64(created_at, 3, 'UTC') as created_at,
    toDateTime64(updated_at, 3, 'UTC') as updated_at,
    {{ as_of() }}
{% endmacro %}
