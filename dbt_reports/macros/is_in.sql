{#- `in` before a subquery, of which every model says so. Where the raw tables are spread over shards it is `global in`: the
    subquery is run here, once, and its rows go to every shard. A bare `in` would be run by each shard, which has neither
    this database's tables nor the other shards' rows. ClickHouse refuses it with code 288 where both sides are raw
    tables, and otherwise sends it: settings (distributed_product_mode, prefer_global_in_and_join) do not reach a condition
    that is passed down into a view. See ClickHouse's documentation, sql-reference/operators/in: Distributed Subqueries.
    Not on one server: `global in` is no condition for prewhere there. -#}
{% macro is_in() -%}
    {{ 'global in' if raw_tables_are_sharded() else 'in' }}
{%- endmacro %}

{% macro is_not_in() -%}
    {{ 'global not in' if raw_tables_are_sharded() else 'not in' }}
{%- endmacro %}

{% macro raw_tables_are_sharded() -%}
    {{ return(env_var('EMAIL_PLATFORM_DBT_SHARDED', 'false') | lower == 'true') }}
{%- endmacro %}
