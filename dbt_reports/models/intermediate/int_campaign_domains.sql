{{ config(materialized='view') }}

select *
from {{ ref('int_domain_counts') }} final
where accepted + rejected + unknown + abandoned > 0
