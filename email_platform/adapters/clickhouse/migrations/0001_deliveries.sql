-- Current state of each delivery; grain (campaign_id, lead_id). The row with the highest version counts: unknown,
-- abandoned, rejected, accepted in this order, then the later time. Read it with `final`.
-- Not partitioned: `final` does not collapse rows across partitions.
create table if not exists delivery
(
    campaign_id UInt64,
    lead_id UInt64,
    message_id UUID,
    owner_id UInt64,
    sender_id UInt64,
    email String codec(zstd(1)),
    provider LowCardinality(String),
    provider_message_id String codec(zstd(1)),
    status LowCardinality(String),
    error_code LowCardinality(String),
    error_message String codec(zstd(1)),
    chunk_index UInt32,
    call_index UInt32,
    call_id UUID,
    occurred_at DateTime64(3, 'UTC') codec(delta, zstd(1)),
    version UInt64 codec(delta, zstd(1)),
    object_key LowCardinality(String),
    loaded_at DateTime64(3, 'UTC') default now64(3, 'UTC')
)
engine = ReplacingMergeTree(version)
order by (campaign_id, lead_id)
settings non_replicated_deduplication_window = 100000;

-- Leads that met a campaign's condition and were left out; grain (campaign_id, lead_id).
create table if not exists exclusion
(
    campaign_id UInt64,
    lead_id UInt64,
    email String codec(zstd(1)),
    reason LowCardinality(String),
    object_key LowCardinality(String),
    loaded_at DateTime64(3, 'UTC') default now64(3, 'UTC')
)
engine = ReplacingMergeTree(loaded_at)
order by (campaign_id, lead_id)
settings non_replicated_deduplication_window = 100000;

-- The last known state of every campaign; grain campaign_id. A row deleted in the OLTP database stays here with
-- is_deleted = 1: what was sent must not vanish from the reports.
create table if not exists campaign
(
    campaign_id UInt64,
    owner_id UInt64,
    sender_id UInt64,
    from_address String,
    name String,
    subject_template String,
    status LowCardinality(String),
    status_reason Nullable(String),
    scheduled_at Nullable(DateTime64(3, 'UTC')),
    queued_at Nullable(DateTime64(3, 'UTC')),
    started_at Nullable(DateTime64(3, 'UTC')),
    finished_at Nullable(DateTime64(3, 'UTC')),
    created_at DateTime64(3, 'UTC'),
    frozen_at Nullable(DateTime64(3, 'UTC')),
    considered UInt64,
    eligible UInt64,
    excluded_suppressed UInt64,
    excluded_unsubscribed UInt64,
    excluded_invalid_address UInt64,
    excluded_duplicate_address UInt64,
    chunk_count UInt32,
    is_deleted UInt8,
    snapshot_at DateTime64(3, 'UTC')
)
engine = ReplacingMergeTree(snapshot_at)
order by campaign_id
settings non_replicated_deduplication_window = 100000;

-- The last known state of every user; grain user_id.
create table if not exists app_user
(
    user_id UInt64,
    email String,
    name String,
    created_at DateTime64(3, 'UTC'),
    is_deleted UInt8,
    snapshot_at DateTime64(3, 'UTC')
)
engine = ReplacingMergeTree(snapshot_at)
order by user_id
settings non_replicated_deduplication_window = 100000;
