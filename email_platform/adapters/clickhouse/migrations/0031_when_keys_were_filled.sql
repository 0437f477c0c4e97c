-- Grain: one fill: at recorded_at, every load whose loaded_at is not after filled_to had its keys in email_key. One statement that
-- reads email_key as well takes a fill that was recorded some time before (dbt_reports/macros/emails_by_key.sql), hence more than
-- the newest. Instead of email_key_fill, which only processes of the version before still read and write; its row is not taken over,
-- so the first fill puts every key in once more, to no effect.
create table if not exists email_key_filled
(
    recorded_at DateTime64(3, 'UTC'),
    filled_to DateTime64(3, 'UTC')
)
engine = MergeTree
partition by tuple()
order by recorded_at
ttl toDateTime(recorded_at) + interval 1 month
settings non_replicated_deduplication_window = 0, replicated_deduplication_window = 0;
