{#- How the counts of `outcome_counts` are made from deliveries. -#}
{% macro count_outcomes() -%}
    {% for outcome in ['accepted', 'rejected', 'unknown', 'abandoned'] %}
    toInt64(countIf(outcome = '{{ outcome }}')) as {{ outcome }},
    {% endfor %}
    toInt64(countIf(status in ('delivered', 'opened', 'clicked', 'unsubscribed', 'complained'))) as delivered,
    toInt64(countIf(status = 'bounced_hard')) as bounced_hard,
    toInt64(countIf(status = 'bounced_soft')) as bounced_soft,
    toInt64(countIf(status = 'blocked')) as blocked,
    toInt64(countIf(status = 'rejected' and outcome != 'rejected')) as rejected_later,
    toInt64(countIf(complained_at is not null)) as complained,
    toInt64(countIf(opened_at is not null)) as opened,
    toInt64(countIf(clicked_at is not null)) as clicked,
    toInt64(countIf(unsubscribed_at is not null)) as unsubscribed,
    toInt64(sum(emails)) as emails
{%- endmacro %}
