{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        pre_hook=emptied(),
        engine='MergeTree()',
        order_by='(raw_table, source_object, loaded_at)'
    )
}}

-- A load is looked for over the last day again and again, so one that took its loaded_at long before it became
-- visible is found: a load is given up after 10 minutes.
{% set done = loads_done() %}
{% for raw_table in ['delivery', 'event', 'legacy_email'] %}
select '{{ raw_table }}' as raw_table, toString(loads.source_object) as source_object, loads.loaded_at as loaded_at
from (
    -- Grouped before the name becomes a text: it is a number in the table's dictionary here.
    select source_object, loaded_at
    from {{ source('warehouse', raw_table) }}
    {% if done %}
    where loaded_at > (select max(loaded_at) - interval 1 day from {{ done }} where raw_table = '{{ raw_table }}')
    {% endif %}
    group by source_object, loaded_at
) as loads
{% if done %}
where (toString(loads.source_object), loads.loaded_at) {{ is_not_in() }} (
    select source_object, loaded_at
    from {{ done }}
    where raw_table = '{{ raw_table }}'
)
{% endif %}
{{ 'union all' if not loop.last }}
{% endfor %}
