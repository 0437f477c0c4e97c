"""Real engines from PyPI wheels that stand in for RDS, S3, ClickHouse and the provider on a bare machine."""
