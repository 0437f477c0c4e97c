{#- The deliveries whose state this build computes. -#}
{% macro deliveries_to_compute() -%}
    {{ ref('stg_deliveries') if all_states_are_to_be_built() else ref('int_changed_deliveries') }}
{%- endmacro %}
