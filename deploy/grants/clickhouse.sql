-- Least rights in ClickHouse, for an administrator to run once; the names are examples, the database is the settings' one.
-- Only their syntax was checked here (by the engine's own formatQuery): chDB, the embedded engine, has no users.
create role if not exists email_platform_application;
grant show, select, insert, alter, create table, create view, drop table, drop view, truncate, optimize on email_platform.* to email_platform_application;
grant read on S3 to email_platform_application;
create role if not exists email_platform_reports;
grant show, select on email_platform.* to email_platform_reports;
