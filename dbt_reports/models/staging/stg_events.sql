-- The highest reading of each event: a body that was read again after a fix of its normaliser replaces the old reading,
-- also where it says that the event is about another message, or about none.
select
    event_key,
    provider,
    account,
    type,
    subtype,
    status_rank,
    campaign_id,
    toUUIDOrZero(message_id) as message_id,
    provider_message_id,
    lower(recipient) as recipient,
    occurred_at,
    received_at,
    details,
    loaded_at
from {{ source('warehouse', 'event') }}
order by event_key asc, normaliser_version desc, loaded_at desc, source_object desc
limit 1 by event_key
