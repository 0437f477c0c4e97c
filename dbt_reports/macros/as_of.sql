{#- When the newest load was made that the reports hold, as a column. A build writes `int_loads_done` after the states and the
    counts, so a mart never knows less than this says. -#}
{% macro as_of() -%}
    (select maxOrNull(loaded_at) from {{ ref('int_loads_done') }}) as as_of
{%- endmacro %}
