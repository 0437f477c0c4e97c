{{ config(materialized='view') }}

select *, cast(outcome = 'accepted', 'UInt32') as emails
from {{ ref('int_delivery_states') }} final
