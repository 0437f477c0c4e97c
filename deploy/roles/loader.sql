-- Loads staged objects into the warehouse and accounts for them; reads no lead and no suppression, sends nothing.
-- Applied by `email-platform roles`, checked by `email-platform doctor`; safe to repeat. It is a role without login:
--   create user my_loader password '...' in role email_platform_loader;
-- A server has one role of this name for all its databases; its rights are given in each database apart.
do $$
begin
    if not exists (select from pg_roles where rolname = 'email_platform_loader') then
        create role email_platform_loader nologin;
    end if;
    execute format('revoke all on all tables in schema %I from email_platform_loader', current_schema());
    execute format('grant usage on schema %I to email_platform_loader', current_schema());
end
$$;
grant select, insert, update on staged_object to email_platform_loader;
grant select on app_user, sender, campaign, campaign_manifest, chunk, send_call, campaign_guard to email_platform_loader;
grant select on email_platform_alembic_version to email_platform_loader;
