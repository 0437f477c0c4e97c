-- The hash of the object's content beside its name: a loader finds out whether the table holds exactly this content,
-- also where the register in PostgreSQL is lost or tells of another warehouse. Constant for an object: it costs nothing.
alter table delivery add column if not exists source_sha256 LowCardinality(String) after source_object;
alter table exclusion add column if not exists source_sha256 LowCardinality(String) after source_object;
alter table campaign add column if not exists source_sha256 LowCardinality(String) after source_object;
alter table app_user add column if not exists source_sha256 LowCardinality(String) after source_object;
alter table event add column if not exists source_sha256 LowCardinality(String) after source_object;

-- What came lately is found without reading what came before: the reports' incremental build asks for it.
alter table delivery add index if not exists loaded_at_range loaded_at type minmax granularity 1;
alter table event add index if not exists loaded_at_range loaded_at type minmax granularity 1;

-- An object's rows are found by its name; in `delivery` the campaign's range of the key does that.
alter table event add index if not exists source_object_filter source_object type bloom_filter granularity 1;
