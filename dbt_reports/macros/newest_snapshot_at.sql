{#- When the newest complete snapshot of a dimension was taken; a row that is older was deleted in the OLTP database.
    The table is reached beside `campaign`: Dagster knows it as a part of the same asset, not as one of its own. -#}
{% macro newest_snapshot_at(dimension) -%}
    (select max(snapshot_at)
     from {{ source('warehouse', 'campaign').incorporate(path={'identifier': 'dimension_snapshot'}) }}
     where name = '{{ dimension }}')
{%- endmacro %}
