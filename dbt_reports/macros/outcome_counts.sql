{#- The counts of recipients that every report by campaign, user or day has. The first four are what the provider answered
    and exclude each other; the next four are what became of it, and exclude each other too; the rest are unique
    recipients with such an event. -#}
{% macro outcome_counts() -%}
    {{ return([
        'accepted', 'rejected', 'unknown', 'abandoned',
        'delivered', 'bounced_hard', 'bounced_soft', 'rejected_later',
        'complained', 'opened', 'clicked', 'unsubscribed',
    ]) }}
{%- endmacro %}
