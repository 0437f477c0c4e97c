"""Drivers (psycopg, boto3, clickhouse-connect, httpx) behind the small Protocols of `email_platform.domain.ports`."""
