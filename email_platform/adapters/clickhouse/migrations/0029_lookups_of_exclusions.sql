-- Leads that campaigns left out are found by lead and by address as deliveries are (0027).
alter table exclusion add index if not exists lead_filter lead_id type bloom_filter(0.001) granularity 1;
alter table exclusion add index if not exists address_filter lower(email) type bloom_filter(0.001) granularity 1;
alter table exclusion materialize index if exists lead_filter;
alter table exclusion materialize index if exists address_filter;
