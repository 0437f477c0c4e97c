{#- Counts are kept by campaign: one with any state computed since the last build is recounted as a whole, so a late
    bounce, a receipt that comes late or an outcome decided later also corrects the days before, and a build that failed
    or ran twice leaves nothing wrong behind. Its groups are appended and replace those before (the highest counted_up_to
    counts); a group that is no more is written with zeros. No row is ever deleted: a mutation costs more than all of the
    counting. -#}

{#- Up to which state the rows of this build count. -#}
{% macro newest_state() -%}
    assumeNotNull((select max(built_at) from {{ ref('int_computed_states') }}))
{%- endmacro %}

{#- Restricts to the campaigns that this build counts: all of them, or those with a state that is new to the table. -#}
{% macro is_to_be_counted() -%}
    {% if is_incremental() -%}
    campaign_id {{ is_in() }} (
        select campaign_id
        from {{ ref('int_computed_states') }}
        where built_at > (select max(counted_up_to) from {{ this }})
    )
    {%- else -%}
    true
    {%- endif %}
{%- endmacro %}
