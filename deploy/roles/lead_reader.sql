-- A reader of leads, such as a service that counts an audience: leads and who is suppressed, nothing of campaigns.
-- Applied by `email-platform roles`, checked by `email-platform doctor`; safe to repeat. It is a role without login:
--   create user my_lead_reader password '...' in role email_platform_lead_reader;
-- A server has one role of this name for all its databases; its rights are given in each database apart.
do $$
begin
    if not exists (select from pg_roles where rolname = 'email_platform_lead_reader') then
        create role email_platform_lead_reader nologin;
    end if;
    execute format('revoke all on all tables in schema %I from email_platform_lead_reader', current_schema());
    execute format('grant usage on schema %I to email_platform_lead_reader', current_schema());
end
$$;
grant select on lead, suppression to email_platform_lead_reader;
grant select (pseudonym, key_id) on erasure to email_platform_lead_reader;
grant select on email_platform_alembic_version to email_platform_lead_reader;
