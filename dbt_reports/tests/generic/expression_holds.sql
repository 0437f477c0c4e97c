{#- Every row (of those that meet `for_rows`) fulfils the expression; null counts as not fulfilled. -#}
{% test expression_holds(model, expression, for_rows='true') %}
select *
from {{ model }}
where ({{ for_rows }}) and not ifNull({{ expression }}, false)
{% endtest %}
