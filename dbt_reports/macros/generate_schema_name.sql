{#- Models live in <schema>_<custom schema>, on every target: consumers read <database>_reports, whoever builds it. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ target.schema }}{% if custom_schema_name is not none %}_{{ custom_schema_name | trim }}{% endif %}
{%- endmacro %}
