{#- The counts of recipients that every report by campaign, user or day has. The first four are what the provider answered
    and exclude each other; the next five are what became of it, and exclude each other too; the next four are unique
    recipients with such an event. `emails` counts emails that the provider accepted: more than `accepted` where the old
    system mailed a lead twice. -#}
{% macro outcome_counts() -%}
    {{ return([
        'accepted', 'rejected', 'unknown', 'abandoned',
        'delivered', 'bounced_hard', 'bounced_soft', 'blocked', 'rejected_later',
        'complained', 'opened', 'clicked', 'unsubscribed', 'emails',
    ]) }}
{%- endmacro %}
