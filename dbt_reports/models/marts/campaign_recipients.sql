{{ config(materialized='view') }}

select
    user_id,
    campaign_id,
    lead_id,
    email,
    status,
    provider_message_id,
    multiIf(error_code = '', error_message, error_message = '', toString(error_code),
            concat(error_code, ': ', error_message)) as error,
    occurred_at
from {{ ref('stg_deliveries') }}
