-- The receivers for events and unsubscribes: they store bodies in the bucket, and write an unsubscribe here at once. They
-- see neither a campaign's templates nor what is known of a lead beside its address, and remove no suppression.
-- Applied by `email-platform roles`, checked by `email-platform doctor`; safe to repeat. It is a role without login:
--   create user my_receiver password '...' in role email_platform_receiver;
-- A server has one role of this name for all its databases; its rights are given in each database apart.
do $$
begin
    if not exists (select from pg_roles where rolname = 'email_platform_receiver') then
        create role email_platform_receiver nologin;
    end if;
    execute format('revoke all on all tables in schema %I from email_platform_receiver', current_schema());
    execute format('grant usage on schema %I to email_platform_receiver', current_schema());
end
$$;
grant select, insert on suppression to email_platform_receiver;
grant select on sender to email_platform_receiver;
-- A look for alerts once a minute (docs/runbook.md): states and times, no templates.
grant select (id, sender_id, name, status, status_reason, attempt, launched_attempt, scheduled_at, queued_at, started_at, finished_at, progress_at, created_at) on campaign to email_platform_receiver;
grant select (campaign_id, chunk_index, call_index, state, lease_epoch, attempts, recipient_count, intent_at) on send_call to email_platform_receiver;
grant select on chunk, staged_object, campaign_guard to email_platform_receiver;
grant select, insert, update, delete on alert, alert_delivery, alert_beat to email_platform_receiver;
grant select on campaign_manifest to email_platform_receiver;
grant select (id, email) on lead to email_platform_receiver;
-- Whoever was erased is suppressed by a pseudonym.
grant select (pseudonym, key_id) on erasure to email_platform_receiver;
grant select on email_platform_alembic_version to email_platform_receiver;
