-- Grain (kind, key_hash, source, campaign_id, lead_id): where an email is that has this key, and in which raw table. A lead's id, an address in lower case, a
-- provider's message id and our message id, each as 32 bits of a hash: a hit is a candidate, which the reader compares with
-- the raw row. Filled off the load path (email_platform/adapters/clickhouse/key_index.py), never by a load; what is loaded
-- since is read from the raw tables by loaded_at. Rows are only added, but for somebody's erasure.
create table if not exists email_key
(
    kind Enum8('lead' = 1, 'address' = 2, 'provider_message_id' = 3, 'message_id' = 4),
    key_hash UInt32 codec(Delta, ZSTD(1)),
    source Enum8('delivery' = 1, 'legacy_email' = 2, 'exclusion' = 3),
    campaign_id Int64 codec(T64, ZSTD(1)),
    lead_id Int64 codec(T64, ZSTD(1))
)
engine = ReplacingMergeTree
partition by tuple()
order by (kind, key_hash, source, campaign_id, lead_id)
settings index_granularity = 1024, non_replicated_deduplication_window = 0, replicated_deduplication_window = 0;

-- Grain: one row, the newest: every load whose loaded_at is not after filled_to has its keys in email_key.
create table if not exists email_key_fill
(
    name LowCardinality(String),
    filled_to DateTime64(3, 'UTC')
)
engine = ReplacingMergeTree(filled_to)
partition by tuple()
order by name
settings non_replicated_deduplication_window = 0, replicated_deduplication_window = 0;
