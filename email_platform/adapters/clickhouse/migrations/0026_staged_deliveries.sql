-- How many deliveries of the campaign were staged when the snapshot was taken: where the reports show fewer, loads are
-- behind, or an object is quarantined or lost. Null before the audience is frozen, and in snapshots from before this column.
alter table campaign add column if not exists staged Nullable(Int64) after chunk_count;
