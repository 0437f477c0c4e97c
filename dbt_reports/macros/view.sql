{#- A view that stands as it should is left alone: making one again costs five statements, and most of this project's models
    are views. Its comment ends with a hash of its own code and of every model's of the project, so a change anywhere makes
    all of them again, as --full-refresh does (for a raw table whose columns got other types). -#}
{% materialization view, adapter='clickhouse' %}
    {%- set existing = load_cached_relation(this) -%}
    {%- set target_relation = this.incorporate(type='view') -%}
    {%- set of_models = graph.nodes.values() | selectattr('resource_type', 'equalto', 'model') | map(attribute='checksum.checksum') -%}
    {%- set definition = local_md5(sql ~ model.description ~ (of_models | sort | join)) -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {%- set stands = existing is not none and existing.is_view and not should_full_refresh()
        and (comments_of_views(this.schema).get(this.identifier) or '').endswith(definition) -%}

    {% if stands %}
        {% do store_raw_result(name='main', message='unchanged', code='unchanged', rows_affected='0') %}
    {% else %}
        {% if existing is not none and not existing.is_view %}
            {% do adapter.drop_relation(existing) %}
        {% endif %}
        {% call statement('main') -%}
            {{ get_create_view_as_sql(target_relation, sql) }}
        {%- endcall %}
        {% do run_query(one_alter_relation(target_relation,
            'modify comment ' ~ clickhouse_escape_comment(model.description | trim ~ '\n\nDefinition ' ~ definition))) %}
    {% endif %}

    {% do apply_grants(target_relation, config.get('grants'), should_revoke=not stands) %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}


{#- Of every view of the database, asked once a build: `graph` is one dictionary for all of a build's models. -#}
{% macro comments_of_views(database) -%}
    {%- set kept = 'comments of views of ' ~ database -%}
    {%- if kept not in graph -%}
        {%- set comments = {} -%}
        {%- for row in run_query(
            "select name, comment from system.tables where database = '" ~ database ~ "' and engine = 'View'"
        ).rows -%}
            {%- do comments.update({row[0]: row[1]}) -%}
        {%- endfor -%}
        {%- do graph.update({kept: comments}) -%}
    {%- endif -%}
    {{ return(graph[kept]) }}
{%- endmacro %}
