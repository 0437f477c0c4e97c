{{ config(materialized='view') }}

-- The one place where deliveries of every origin meet; whatever reads deliveries reads this.
select *
from {{ ref('int_delivery_states') }} final
