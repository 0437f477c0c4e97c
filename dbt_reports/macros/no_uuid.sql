{#- Stands for a message id that an event does not carry. -#}
{% macro no_uuid() -%}00000000-0000-0000-0000-000000000000{%- endmacro %}
