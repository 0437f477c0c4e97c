{{ config(materialized='view') }}

select *
from {{ ref('int_hour_counts') }} final
where accepted + rejected + unknown + abandoned > 0
