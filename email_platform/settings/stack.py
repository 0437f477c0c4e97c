"""The embedded parts' common folder and their limits, and where Prometheus asks for the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from email_platform.settings.values import Port, PositiveInt, PositiveSeconds


class StackSettings(BaseModel):
    """Where the embedded parts live, and what they may take of the machine. A megabyte here is 1,048,576 bytes.

    Attributes:
        state_folder: the embedded parts' data, logs and ``embedded.env``.
        start_timeout_seconds: how long one embedded part may take until it answers.
        embedded_clickhouse_memory_megabytes: of the embedded ClickHouse's whole process; a query that would go over
            it is refused. None: half of the machine's memory.
        embedded_clickhouse_buckets: further buckets than the platform's own that the embedded ClickHouse may read and
            write, with commas between them.
        embedded_clickhouse_threads: of one query; 0: one per core.
        embedded_postgres_shared_megabytes: ``shared_buffers`` of the embedded PostgreSQL.
        embedded_postgres_work_megabytes: its ``work_mem``, which each sort or hash of each connection may take.
        embedded_postgres_connections: its ``max_connections``.
        metrics_port: where `email-platform metrics serve` listens.
    """

    state_folder: Path
    start_timeout_seconds: PositiveSeconds = 60.0
    embedded_clickhouse_memory_megabytes: Annotated[int, Field(ge=512)] | None = None
    embedded_clickhouse_buckets: str = ""
    embedded_clickhouse_threads: Annotated[int, Field(ge=0, le=1024)] = 0
    embedded_postgres_shared_megabytes: PositiveInt = 128
    embedded_postgres_work_megabytes: Annotated[int, Field(ge=1, le=1_048_576)] = 16
    embedded_postgres_connections: Annotated[int, Field(ge=20, le=10_000)] = 100
    metrics_port: Port = 18090
