{{ config(meta={'dagster': {'ref': {'name': 'suppression_growth'}}}) }}
-- The last day's cumulative counts, and all new ones together, are the list.
select
    (select sum(suppressions) from {{ ref('stg_suppressions') }} where is_removed = 0) as on_the_list,
    (select sum(new_suppressions) from {{ ref('suppression_growth') }}) as new_ones,
    (
        select sum(newest)
        from (
            select argMax(cumulative_suppressions, activity_date) as newest
            from {{ ref('suppression_growth') }}
            group by reason, source, sender_id
        )
    ) as cumulative
where ifNull(new_ones, 0) != ifNull(on_the_list, 0) or ifNull(cumulative, 0) != ifNull(on_the_list, 0)
