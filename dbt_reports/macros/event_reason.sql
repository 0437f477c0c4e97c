{#- The reason that a provider gave in an event's details, in the order of how much it says; empty where it gave none. -#}
{% macro event_reason(details) -%}
    coalesce(
        {% for name in ['diagnostic', 'smtp_response', 'message', 'reason', 'description', 'detail', 'bounce_type'] -%}
        nullIf(JSONExtractString({{ details }}, '{{ name }}'), ''),
        {% endfor -%}
        ''
    )
{%- endmacro %}
