-- Least rights in ClickHouse. `email-platform migrate --clickhouse-grants` gives them to the roles, in the settings'
-- database in place of email_platform and dbt's beside it, for a user with access management; `email-platform doctor`
-- compares what the user of the settings may with what email_platform_application needs. They are roles; users get them:
--   create user my_application identified by '...' default role email_platform_application;
-- `migrate` as such a user needs the database to be there. Where a server has no grants by source (before 25.7), reading
-- from S3 is given by `grant s3 on *.* to email_platform_application;`.
create role if not exists email_platform_application;
grant show, select, insert, alter table, alter view, create table, create view, drop table, drop view, truncate, optimize on email_platform.* to email_platform_application;
grant show, select, insert, alter table, alter view, create database, create table, create view, drop table, drop view, truncate, optimize on email_platform_reports.* to email_platform_application;
grant read on S3 to email_platform_application;
create role if not exists email_platform_reports;
grant show, select on email_platform.* to email_platform_reports;
grant show, select on email_platform_reports.* to email_platform_reports;
