{#- One text from the provider's code and message: `code: message`, or the one that there is, or empty. -#}
{% macro delivery_error(error_code, error_message) -%}
    multiIf(
        {{ error_code }} = '', {{ error_message }},
        {{ error_message }} = '', toString({{ error_code }}),
        concat({{ error_code }}, ': ', {{ error_message }})
    )
{%- endmacro %}
