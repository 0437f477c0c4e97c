"""An HTTP server process that speaks ClickHouse's protocol in front of chDB, the ClickHouse engine as a wheel.

The invariant: a client of a ClickHouse server (clickhouse-connect, dbt-clickhouse) runs against it unchanged.
"""
