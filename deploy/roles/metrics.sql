-- Counts for Prometheus (`email-platform metrics serve`): campaigns' states and times, calls, staged objects, accounts'
-- rates; no lead, no address, no content.
-- Applied by `email-platform roles`, checked by `email-platform doctor`; safe to repeat. It is a role without login:
--   create user my_metrics password '...' in role email_platform_metrics;
-- A server has one role of this name for all its databases; its rights are given in each database apart.
do $$
begin
    if not exists (select from pg_roles where rolname = 'email_platform_metrics') then
        create role email_platform_metrics nologin;
    end if;
    execute format('revoke all on all tables in schema %I from email_platform_metrics', current_schema());
    execute format('grant usage on schema %I to email_platform_metrics', current_schema());
end
$$;
grant select (id, status, scheduled_at, attempt, queued_at, started_at, finished_at, progress_at, created_at, launched_attempt, estimated_rows) on campaign to email_platform_metrics;
grant select (campaign_id, chunk_index, call_index, state, lease_epoch, attempts, intent_at, receipt_at) on send_call to email_platform_metrics;
grant select on chunk, staged_object, campaign_guard, provider_rate, provider_rate_flow to email_platform_metrics;
grant select on email_platform_alembic_version to email_platform_metrics;
