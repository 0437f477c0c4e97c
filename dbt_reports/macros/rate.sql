{#- Every rate of the reports, defined once: a count of `outcome_counts` over another, null where nobody is counted below.
    Shares of what was attempted, of the recipients with a last word, or of the delivered. An open or a click may belong to
    a recipient who bounced for good later, who is not delivered: in a tiny campaign such a rate may pass 1. -#}
{% macro rate(name) -%}
    {%- set attempted = 'accepted + rejected + unknown + abandoned' -%}
    {%- set known = 'delivered + bounced_hard + bounced_soft + blocked + rejected_later' -%}
    {%- set over = {
        'accepted_rate': ('accepted', attempted),
        'delivered_rate': ('delivered', known),
        'bounce_rate': ('(bounced_hard + bounced_soft)', known),
        'hard_bounce_rate': ('bounced_hard', known),
        'soft_bounce_rate': ('bounced_soft', known),
        'open_rate': ('opened', 'delivered'),
        'click_rate': ('clicked', 'delivered'),
        'complaint_rate': ('complained', 'delivered'),
        'unsubscribe_rate': ('unsubscribed', 'delivered'),
    } -%}
    {{ over[name][0] }} / nullIf({{ over[name][1] }}, 0) as {{ name }}
{%- endmacro %}
