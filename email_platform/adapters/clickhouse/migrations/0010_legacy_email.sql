-- Grain id: one row of the old RDS table `email` as the newest import of it showed it, every old column as it was
-- (docs/legacy_import.md). Read with final and `is_deleted = 0`. Two rows of one campaign and lead are two emails that
-- were sent: nothing here is made unique that was not.
-- Ordered as reports read it. An old row whose campaign or lead was changed at the source has its former key marked
-- as deleted by the import. `version` is the moment of the source's snapshot in microseconds. Not partitioned:
-- created_at may be corrected at the source, and final does not collapse across partitions; ids and times rise with
-- campaigns, so the small indexes find the granules of a month or of a range of ids.
create table if not exists legacy_email
(
    id Int64 codec(Delta, ZSTD(1)),
    campaign_id Int64 codec(Delta, ZSTD(1)),
    user_id Int64 codec(Delta, ZSTD(1)),
    lead_id Int64 codec(Delta, ZSTD(1)),
    email String codec(ZSTD(3)),
    subject String codec(ZSTD(3)),
    status LowCardinality(String),
    provider_message_id Nullable(String) codec(ZSTD(3)),
    error Nullable(String) codec(ZSTD(3)),
    sent_at Nullable(DateTime64(6, 'UTC')) codec(Delta, ZSTD(1)),
    created_at DateTime64(6, 'UTC') codec(Delta, ZSTD(1)),
    updated_at DateTime64(6, 'UTC') codec(Delta, ZSTD(1)),
    version UInt64 codec(Delta, ZSTD(1)),
    is_deleted UInt8 codec(ZSTD(1)),
    source_object LowCardinality(String),
    loaded_at DateTime64(3, 'UTC') codec(Delta, ZSTD(1)),
    index legacy_email_id id type minmax granularity 1,
    index legacy_email_created_at created_at type minmax granularity 1
)
engine = ReplacingMergeTree(version)
partition by tuple()
order by (campaign_id, lead_id, id)
settings non_replicated_deduplication_window = 200000, replicated_deduplication_window = 200000;
