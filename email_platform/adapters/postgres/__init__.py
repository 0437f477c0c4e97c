"""PostgreSQL (OLTP) behind SQLAlchemy Core: tables, migrations, campaigns, audience and the call ledger."""
