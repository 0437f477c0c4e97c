"""Dagster's storage in PostgreSQL, over a connection that is kept.

dagster-postgres opens a connection for each question and closes it after it (`NullPool`, "to prevent accumulating
connections per DagsterInstance"), except in the webserver. A new connection costs both sides a login and the server a
process, and the run of one small campaign asks some hundreds of times.

Invariant: a process keeps `KEPT` connections at most for a database, however many instances it makes (the code server
makes one for each tick, a Celery worker one for each step, and neither's is closed at once), and has more only while
threads ask at the same moment. A kept one is asked whether it is alive before it is used, so a restart of the server
costs a run nothing that it did not cost before. A forked process uses none of its parent's.

Sources: dagster_postgres 0.29, `PostgresRunStorage.__init__` and `optimize_for_webserver`; Dagster's reference of
dagster.yaml, `storage: custom`; SQLAlchemy's *Connection Pooling*, "Disconnect Handling - Pessimistic" and "Using
Connection Pools with Multiprocessing or os.fork()".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import create_pg_engine, get_token_provider_from_config, pg_url_from_config
from sqlalchemy import Engine

KEPT = 1


class PooledPostgresStorage(DagsterPostgresStorage):
    """`dagster_postgres.DagsterPostgresStorage`, whose storages share the process's pool.

    Its configuration is the same.
    """

    def __init__(self, postgres_url: str, *, token_provider: Any = None, login: str = "", **options: Any) -> None:
        """As Dagster makes it; `login` tells configurations apart that differ in how they get a token."""
        super().__init__(postgres_url, token_provider=token_provider, **options)
        engine = _engines.get((postgres_url, login))
        if engine is None:
            made = create_pg_engine(
                postgres_url,
                token_provider,
                isolation_level="AUTOCOMMIT",
                pool_size=KEPT,
                max_overflow=-1,
                pool_pre_ping=True,
            )
            # Another thread may have been faster; one that was made for nothing has no connection.
            engine = _engines.setdefault((postgres_url, login), made)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = engine

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> PooledPostgresStorage:
        """As Dagster makes it of dagster.yaml."""
        return cls(
            pg_url_from_config(config_value),
            should_autocreate_tables=config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
            token_provider=get_token_provider_from_config(config_value),
            login=repr(config_value.get("auth_provider")),
        )


_engines: dict[tuple[str, str], Engine] = {}


def _leave_the_parents_connections() -> None:
    for engine in list(_engines.values()):
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_leave_the_parents_connections)
