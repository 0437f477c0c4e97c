-- Leads that were left out because nobody can read their attributes. Null before the audience is frozen, and in snapshots
-- from before this column.
alter table campaign add column if not exists excluded_unreadable Nullable(Int64) after excluded_duplicate_address;
