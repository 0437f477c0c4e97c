-- Grain: one row per event of a loaded object, append-only. The same event may stand here twice (a provider sent it
-- again, a batch was staged twice, a body was replayed): event_key is its identity, and whoever reads takes
--     order by normaliser_version desc limit 1 by event_key
-- Not a ReplacingMergeTree: its merges would take rows away from the objects that they are counted by, and final
-- costs every reader for the few duplicates. Partitioned by month, for keeping and dropping, never by campaign.
create table if not exists event
(
    event_key String codec(ZSTD(1)),
    provider LowCardinality(String),
    account LowCardinality(String),
    event_id String codec(ZSTD(1)),
    type LowCardinality(String),
    subtype LowCardinality(String),
    status_rank UInt8,
    campaign_id Int64 codec(Delta, ZSTD(1)),
    message_id String codec(ZSTD(1)),
    provider_message_id String codec(ZSTD(3)),
    recipient String codec(ZSTD(3)),
    occurred_at DateTime64(3, 'UTC') codec(Delta, ZSTD(1)),
    received_at DateTime64(3, 'UTC') codec(Delta, ZSTD(1)),
    normaliser_version UInt16,
    details String codec(ZSTD(3)),
    source_object LowCardinality(String),
    loaded_at DateTime64(3, 'UTC') codec(Delta, ZSTD(1))
)
engine = MergeTree
partition by toYYYYMM(occurred_at)
order by (campaign_id, message_id, event_key)
settings non_replicated_deduplication_window = 200000, replicated_deduplication_window = 200000;
