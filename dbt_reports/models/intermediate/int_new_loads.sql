{{
    config(
        materialized='table',
        engine='MergeTree()',
        order_by='(raw_table, source_object, loaded_at)'
    )
}}

-- A load is looked for over the last day again and again, so one that took its loaded_at long before it became
-- visible is found: a load is given up after 10 minutes.
{% set done = loads_done() %}
{% for raw_table in ['delivery', 'event', 'legacy_email'] %}
select '{{ raw_table }}' as raw_table, toString(source_object) as source_object, loaded_at
from {{ source('warehouse', raw_table) }}
{% if done %}
where loaded_at > (select max(loaded_at) - interval 1 day from {{ done }} where raw_table = '{{ raw_table }}')
    and (toString(source_object), loaded_at) not in (
        select source_object, loaded_at
        from {{ done }}
        where raw_table = '{{ raw_table }}'
    )
{% endif %}
group by source_object, loaded_at
{{ 'union all' if not loop.last }}
{% endfor %}
