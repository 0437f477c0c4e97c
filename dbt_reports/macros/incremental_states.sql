{#- The chain int_new_loads -> int_changed_deliveries -> int_events_to_match -> int_matched_events -> int_delivery_states -> int_loads_done
    works on whole loads (one object's insert: source_object and loaded_at), not on a time: a load that becomes visible late
    is a load like any other, and no hour of overlap is counted again at every refresh. -#}

{#- Whether every delivery is to be computed: the states are not there yet, or a full build was asked for. -#}
{% macro all_states_are_to_be_built() -%}
    {%- if not execute -%}
        {{ return(true) }}
    {%- endif -%}
    {%- set states = adapter.get_relation(this.database, this.schema, 'int_delivery_states') -%}
    {{ return(states is none or flags.FULL_REFRESH) }}
{%- endmacro %}

{#- The table of loads that earlier builds have taken in; none before the first. Not by ref(): it is built at the end. -#}
{% macro loads_done() -%}
    {%- if not execute or flags.FULL_REFRESH -%}
        {{ return(none) }}
    {%- endif -%}
    {{ return(adapter.get_relation(this.database, this.schema, 'int_loads_done')) }}
{%- endmacro %}

{#- Restricts a raw table to the rows of new loads. The lower bound of the time lets the skip index of loaded_at leave out
    what is older; without new loads it lies beyond every row, so that nothing is read. -#}
{% macro is_newly_loaded(raw_table) -%}
    loaded_at >= (
        select ifNull(minOrNull(loaded_at), toDateTime64('2299-01-01 00:00:00', 3, 'UTC'))
        from {{ ref('int_new_loads') }}
        where raw_table = '{{ raw_table }}'
    )
    and (source_object, loaded_at) {{ is_in() }} (
        select source_object, loaded_at from {{ ref('int_new_loads') }} where raw_table = '{{ raw_table }}'
    )
{%- endmacro %}

{#- Adds the campaigns that the variable asks for, whose states are recomputed even if nothing about them is new:
    {recompute_campaigns: [17, 18]}. Empty where it asks for none. -#}
{% macro or_is_to_be_recomputed() -%}
    {%- set campaigns = var('recompute_campaigns', []) | map('int') | join(', ') -%}
    {{ 'or campaign_id in (' ~ campaigns ~ ')' if campaigns }}
{%- endmacro %}

{#- True where the relation has such a row. Before an `in` over a column without an index: the scalar is known before
    anything is read, so a table is not read for a list that is empty. -#}
{% macro is_there_any(relation, condition) -%}
    (select count() from {{ relation }} where {{ condition }}) > 0
{%- endmacro %}
