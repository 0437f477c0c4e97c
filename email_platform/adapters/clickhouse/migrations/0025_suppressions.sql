-- Grain id: how many suppressions of one day, reason, source and sender (null: every sender) are in force, as the newest
-- snapshot that had any shows it. Read with final; a row that is older than the newest row of dimension_snapshot stands
-- for suppressions that were all removed. No address and no lead: the list itself stays in PostgreSQL.
create table if not exists suppression
(
    id String,
    created_on Date32,
    reason LowCardinality(String),
    source LowCardinality(String),
    sender_id Nullable(Int64),
    suppressions Int64,
    snapshot_at DateTime64(6, 'UTC'),
    source_object String,
    source_sha256 LowCardinality(String),
    loaded_at DateTime64(3, 'UTC')
)
engine = ReplacingMergeTree(snapshot_at)
partition by tuple()
order by id
settings non_replicated_deduplication_window = 200000, replicated_deduplication_window = 200000;
