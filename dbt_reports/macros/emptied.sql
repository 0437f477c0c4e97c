{#- As a pre-hook: a table that holds something for one build only is emptied and filled, a third of the cost of rebuilding it
    and swapping it in. -#}
{% macro emptied() -%}
    {{ return("{{ 'truncate table ' ~ this if is_incremental() else 'select 1' }}") }}
{%- endmacro %}
