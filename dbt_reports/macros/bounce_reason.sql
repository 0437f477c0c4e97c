{#- The code in a reason: the enhanced status code of RFC 3463 (5.1.1) where one stands in the text, else the provider's own
    code, else the SMTP reply code that the text begins with (550, or smtp; 550), else empty. Texts themselves name
    addresses and queue ids, so they cannot be grouped by. -#}
{% macro reason_code(reason, provider_code) -%}
    coalesce(
        nullIf(extract({{ reason }}, '(?:^|[^0-9.])([245]\\.[0-9]{1,3}\\.[0-9]{1,3})(?:[.]?(?:[^0-9.]|$))'), ''),
        nullIf(substringUTF8(toString({{ provider_code }}), 1, 64), ''),
        extract({{ reason }}, '^(?:[a-zA-Z-]+; *)?[^0-9a-zA-Z]{0,5}([45][0-5][0-9])(?:[^0-9]|$)')
    )
{%- endmacro %}

{#- What kind of reason a code stands for: the subjects of RFC 3463, and full mailboxes by themselves. -#}
{% macro reason_class(code) -%}
    multiIf(
        match({{ code }}, '^[245]\\.2\\.2$') or {{ code }} in ('452', '552'), 'mailbox_full',
        match({{ code }}, '^[245]\\.1\\.') or {{ code }} in ('550', '551', '553'), 'address',
        match({{ code }}, '^[245]\\.2\\.'), 'mailbox',
        match({{ code }}, '^[245]\\.3\\.') or {{ code }} in ('421', '451'), 'mail_system',
        match({{ code }}, '^[245]\\.4\\.'), 'network',
        match({{ code }}, '^[245]\\.5\\.'), 'protocol',
        match({{ code }}, '^[245]\\.6\\.'), 'content',
        match({{ code }}, '^[245]\\.7\\.') or {{ code }} = '554', 'policy',
        startsWith({{ code }}, 'deferred:'), 'deferred',
        startsWith({{ code }}, 'suppress'), 'suppressed',
        'unclassified'
    )
{%- endmacro %}
