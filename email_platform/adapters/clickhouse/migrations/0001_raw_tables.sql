-- Grain (campaign_id, lead_id): the newest knowledge of one delivery. Read with final. Not partitioned: final
-- does not collapse across partitions, and a late outcome must replace an early one whenever it comes.
-- The window is named twice: the first is for MergeTree, the second for Replicated and Shared engines.
create table if not exists delivery
(
    campaign_id Int64 codec(Delta, ZSTD(1)),
    lead_id Int64 codec(Delta, ZSTD(1)),
    message_id UUID,
    owner_id Int64 codec(Delta, ZSTD(1)),
    sender_id Int64 codec(Delta, ZSTD(1)),
    email String codec(ZSTD(3)),
    provider LowCardinality(String),
    provider_message_id String codec(ZSTD(3)),
    status LowCardinality(String),
    error_code LowCardinality(String),
    error_message String codec(ZSTD(3)),
    chunk_index Int32 codec(Delta, ZSTD(1)),
    call_index Int32 codec(Delta, ZSTD(1)),
    call_id UUID codec(ZSTD(1)),
    occurred_at DateTime64(3, 'UTC') codec(Delta, ZSTD(1)),
    version UInt64 codec(Delta, ZSTD(1)),
    source_object LowCardinality(String),
    loaded_at DateTime64(3, 'UTC') codec(Delta, ZSTD(1))
)
engine = ReplacingMergeTree(version)
partition by tuple()
order by (campaign_id, lead_id)
settings non_replicated_deduplication_window = 200000, replicated_deduplication_window = 200000;

-- Grain (campaign_id, lead_id): a lead that met the campaign's condition and was left out. Read with final.
create table if not exists exclusion
(
    campaign_id Int64 codec(Delta, ZSTD(1)),
    lead_id Int64 codec(Delta, ZSTD(1)),
    email Nullable(String) codec(ZSTD(3)),
    reason LowCardinality(String),
    source_object LowCardinality(String),
    loaded_at DateTime64(3, 'UTC') codec(Delta, ZSTD(1))
)
engine = ReplacingMergeTree(loaded_at)
partition by tuple()
order by (campaign_id, lead_id)
settings non_replicated_deduplication_window = 200000, replicated_deduplication_window = 200000;

-- Grain id: the campaign as the newest snapshot that had it shows it. Read with final. A row whose snapshot_at
-- is older than the newest row of dimension_snapshot was deleted in the OLTP database; it is never removed here.
create table if not exists campaign
(
    id Int64,
    owner_id Int64,
    sender_id Int64,
    from_address String,
    name String,
    subject String,
    status LowCardinality(String),
    status_reason Nullable(String),
    scheduled_at Nullable(DateTime64(6, 'UTC')),
    queued_at Nullable(DateTime64(6, 'UTC')),
    started_at Nullable(DateTime64(6, 'UTC')),
    finished_at Nullable(DateTime64(6, 'UTC')),
    created_at Nullable(DateTime64(6, 'UTC')),
    considered Nullable(Int64),
    eligible Nullable(Int64),
    excluded_suppressed Nullable(Int64),
    excluded_unsubscribed Nullable(Int64),
    excluded_invalid_address Nullable(Int64),
    excluded_duplicate_address Nullable(Int64),
    chunk_count Nullable(Int64),
    frozen_at Nullable(DateTime64(6, 'UTC')),
    snapshot_at DateTime64(6, 'UTC'),
    source_object String,
    loaded_at DateTime64(3, 'UTC')
)
engine = ReplacingMergeTree(snapshot_at)
partition by tuple()
order by id
settings non_replicated_deduplication_window = 200000, replicated_deduplication_window = 200000;

-- Grain id: the user as the newest snapshot that had them shows them. Read with final; deleted as in campaign.
create table if not exists app_user
(
    id Int64,
    email String,
    name String,
    created_at DateTime64(6, 'UTC'),
    snapshot_at DateTime64(6, 'UTC'),
    source_object String,
    loaded_at DateTime64(3, 'UTC')
)
engine = ReplacingMergeTree(snapshot_at)
partition by tuple()
order by id
settings non_replicated_deduplication_window = 200000, replicated_deduplication_window = 200000;

-- Grain (name, snapshot_at): a snapshot of a dimension that is loaded whole, also one without rows.
create table if not exists dimension_snapshot
(
    name LowCardinality(String),
    snapshot_at DateTime64(6, 'UTC'),
    row_count UInt64,
    loaded_at DateTime64(3, 'UTC')
)
engine = ReplacingMergeTree(loaded_at)
partition by tuple()
order by (name, snapshot_at);
