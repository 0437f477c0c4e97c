"""The OLTP database's migrations; run them with `email_platform.adapters.postgres.migrate.upgrade_to_head`."""
