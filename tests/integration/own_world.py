"""A database, a bucket and a warehouse of a module's own, opened together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Engine

from email_platform.adapters.assembly import open_oltp, open_parts, open_warehouse
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.runs.parts import Parts
from email_platform.settings import Settings
from tests.integration.own_databases import own_settings


@dataclass(frozen=True, slots=True)
class OwnWorld:
    """What a campaign goes through, in databases and a bucket that no other test uses; a chunk has 100 rows."""

    settings: Settings
    parts: Parts
    engine: Engine
    store: S3ObjectStore
    warehouse: ClickHouseWarehouse

    @classmethod
    def of(cls, own: OwnWorld, **more: Any) -> Self:
        """The same with a module's own questions, and with what it adds."""
        return cls(own.settings, own.parts, own.engine, own.store, own.warehouse, **more)


@contextmanager
def own_world(stack: Settings, name: str, accounts: Mapping[str, str] | None = None) -> Iterator[OwnWorld]:
    """Make and open one of this name; closed on leaving.

    Args:
        accounts: the provider's variables, where they are not the settings'.
    """
    settings = own_settings(stack, name)
    with (
        open_parts(settings, accounts) as parts,
        open_oltp(settings) as engine,
        open_warehouse(settings) as warehouse,
    ):
        yield OwnWorld(settings, parts, engine, S3ObjectStore.from_settings(settings), warehouse)
