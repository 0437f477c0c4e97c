-- A reader of reports who wants to know how campaigns stand: no address of a lead, no template, no condition.
-- Applied by `email-platform roles`, checked by `email-platform doctor`; safe to repeat. It is a role without login:
--   create user my_reports password '...' in role email_platform_reports;
-- A server has one role of this name for all its databases; its rights are given in each database apart.
do $$
begin
    if not exists (select from pg_roles where rolname = 'email_platform_reports') then
        create role email_platform_reports nologin;
    end if;
    execute format('revoke all on all tables in schema %I from email_platform_reports', current_schema());
    execute format('grant usage on schema %I to email_platform_reports', current_schema());
end
$$;
grant select (id, owner_id, sender_id, name, status, status_reason, scheduled_at, attempt, queued_at, started_at, finished_at, progress_at, created_at, estimated_rows, version) on campaign to email_platform_reports;
grant select (campaign_id, eligible_rows, excluded_by_reason, frozen_at) on campaign_manifest to email_platform_reports;
grant select (id, name) on app_user to email_platform_reports;
grant select on sender, campaign_guard, staged_object to email_platform_reports;
grant select on email_platform_alembic_version to email_platform_reports;
