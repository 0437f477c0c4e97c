"""Dagster's storage in PostgreSQL, over a connection that is kept.

dagster-postgres opens a connection for each question and closes it after it (`NullPool`, "to prevent accumulating
connections per DagsterInstance"), except in the webserver. A new connection costs both sides a login and the server a
process, and the run of one small campaign asks some hundreds of times.

Invariant: an instance keeps `KEPT` connections at most, for its three storages together, and has more only while
threads ask at the same moment. A kept one is asked whether it is alive before it is used, so a restart of the server
costs a run nothing that it did not cost before. A forked process uses none of its parent's.

Sources: dagster_postgres 0.29, `PostgresRunStorage.__init__` and `optimize_for_webserver`; Dagster's reference of
dagster.yaml, `storage: custom`; SQLAlchemy's *Connection Pooling*, "Disconnect Handling - Pessimistic" and "Using
Connection Pools with Multiprocessing or os.fork()".
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import create_pg_engine, get_token_provider_from_config, pg_url_from_config
from sqlalchemy import Engine

KEPT = 1


class PooledPostgresStorage(DagsterPostgresStorage):
    """`dagster_postgres.DagsterPostgresStorage`, whose storages share a pool; its configuration is the same."""

    def __init__(self, postgres_url: str, *, token_provider: Any = None, **options: Any) -> None:
        super().__init__(postgres_url, token_provider=token_provider, **options)
        engine = create_pg_engine(
            postgres_url,
            token_provider,
            isolation_level="AUTOCOMMIT",
            pool_size=KEPT,
            max_overflow=-1,
            pool_pre_ping=True,
        )
        _engines.add(engine)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = engine

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> PooledPostgresStorage:
        """As Dagster makes it of dagster.yaml."""
        return cls(
            pg_url_from_config(config_value),
            should_autocreate_tables=config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
            token_provider=get_token_provider_from_config(config_value),
        )


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _leave_the_parents_connections() -> None:
    for engine in _engines:
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_leave_the_parents_connections)
