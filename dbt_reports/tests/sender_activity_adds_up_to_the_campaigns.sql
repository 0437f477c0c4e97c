-- Every outcome is in exactly one day of exactly one user.
select sum(accepted) as accepted, sum(rejected) as rejected, sum(unknown) as unknown, sum(abandoned) as abandoned
from {{ ref('sender_activity') }}
having (accepted, rejected, unknown, abandoned) != (
    select (sum(accepted), sum(rejected), sum(unknown), sum(abandoned))
    from {{ ref('int_campaign_outcomes') }}
)
