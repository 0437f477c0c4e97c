-- As 0003, for the table that came after it.
alter table legacy_email add column if not exists source_sha256 LowCardinality(String) after source_object;
alter table legacy_email add index if not exists loaded_at_range loaded_at type minmax granularity 1;
alter table legacy_email add index if not exists source_object_filter source_object type bloom_filter granularity 1;
