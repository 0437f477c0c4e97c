-- Runs, sensors and commands: everything that the platform does with rows, and nothing with tables (no create, alter,
-- drop, truncate). Migrations are the owner's.
-- Applied by `email-platform roles`, checked by `email-platform doctor`; safe to repeat. It is a role without login:
--   create user my_application password '...' in role email_platform_application;
-- A server has one role of this name for all its databases; its rights are given in each database apart.
do $$
begin
    if not exists (select from pg_roles where rolname = 'email_platform_application') then
        create role email_platform_application nologin;
    end if;
    execute format('revoke all on all tables in schema %I from email_platform_application', current_schema());
    execute format('grant usage on schema %I to email_platform_application', current_schema());
    -- It deletes rows of archived ledgers and no others; nobody but the owner has a right to delete from the ledger.
    execute 'grant execute on function remove_archived_ledger(bigint, integer) to email_platform_application';
    -- It deletes leads of people whose erasure is under way (docs/erasure.md) and no others; likewise.
    execute 'grant execute on function erase_leads(text) to email_platform_application';
    -- It removes leads that are gone at the source that leads are kept in step with, and no others.
    execute 'grant execute on function remove_leads_of_source(bigint[]) to email_platform_application';
end
$$;
grant select, insert, update on app_user, sender, lead, segment, campaign, campaign_manifest, chunk, send_call, erasure to email_platform_application;
grant select, insert, update, delete on suppression, staged_object, campaign_guard, provider_rate, provider_rate_flow, lead_import, lead_source_row, lead_source_position, work_lease, alert, alert_delivery, alert_beat, api_key, api_request, api_audit to email_platform_application;
grant select, insert on suppression_lift to email_platform_application;
grant select on email_platform_alembic_version to email_platform_application;
