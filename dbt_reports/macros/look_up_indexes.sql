{#- Filters by which single emails are found in a table that is ordered otherwise: as in the raw tables (migration 0027). -#}
{% macro look_up_indexes() -%}
    {{ return([
        {'name': 'lead_filter', 'definition': 'lead_id type bloom_filter(0.001) granularity 1'},
        {'name': 'address_filter', 'definition': 'lower(email) type bloom_filter(0.001) granularity 1'},
        {'name': 'provider_message_filter', 'definition': 'provider_message_id type bloom_filter(0.001) granularity 1'},
    ]) }}
{%- endmacro %}
