{#- What follows the last @ of an address, in lower case; empty where there is none. -#}
{% macro recipient_domain(address) -%}
    if(position({{ address }}, '@') = 0, '', lowerUTF8(arrayElement(splitByChar('@', {{ address }}), -1)))
{%- endmacro %}
