"""Requests of the HTTP API that must not be done twice, and the audit log.

Invariant: what a request changes in PostgreSQL and the answer that is kept for its repeats are one transaction: either
both are there or neither. Where a request does something outside (a message is sent), its row is there before, and a
repeat of one that never ended is refused rather than done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from email_platform.adapters.postgres.tables import api_audit, api_key, api_request
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.errors import ConflictError, IdempotencyKeyReusedError

Document = Mapping[str, Any]
# Each new request removes a few of those that are kept no longer, so that the table does not grow.
_FORGET = text(
    """
    delete from api_request
    where ctid = any(array(
        select ctid
        from api_request
        where created_at < now() - make_interval(hours => 72)
        order by (key_id = :key_id and idempotency_key = :idempotency_key) desc
        limit 20
        for update skip locked
    ))
    """
)


@dataclass(frozen=True, slots=True)
class RequestName:
    """Names a request, so that its repeat is recognised.

    Attributes:
        request_sha256: of method, path and body.
    """

    key_id: int
    idempotency_key: str
    request_sha256: bytes


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row of ``api_audit``; status None: the request never answered, so nobody knows whether it was done."""

    entry_id: int
    at: datetime
    key_id: int
    key_name: str
    method: str
    path: str
    status: int | None


class PostgresApiRequests:
    """Keeps answers for repeats, and who did what."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def once(
        self, name: RequestName, status: int, effect: Callable[[Connection], Document]
    ) -> tuple[int, Document, bool]:
        """Do it, or give the answer that an equal request got; answers: status, body, whether it is a replay.

        Two equal requests at once: the second waits for the first.

        Args:
            name: of the request.
            status: of a success.
            effect: does it in the transaction that it is given; what it raises leaves nothing behind.

        Raises:
            IdempotencyKeyReusedError: the key names another request.
        """
        with oltp_transaction(self._engine) as connection:
            if not _take(connection, name):
                return *_answer(connection, name), True
            body = effect(connection)
            _keep(connection, name, status, body)
            return status, body, False

    def begin(self, name: RequestName) -> tuple[int, Document] | None:
        """Note that something outside is about to be done; the answer that an equal request got, or None.

        Raises:
            IdempotencyKeyReusedError: the key names another request.
            ConflictError: an equal request has begun, and nobody knows whether it was done.
        """
        with oltp_transaction(self._engine) as connection:
            return None if _take(connection, name) else _answer(connection, name)

    def end(self, name: RequestName, status: int, body: Document) -> None:
        """Keep the answer of what `begin` began."""
        with oltp_transaction(self._engine) as connection:
            _keep(connection, name, status, body)

    def abandon(self, name: RequestName) -> None:
        """Forget what `begin` began, where certainly nothing was done: the same key may be used again."""
        with oltp_transaction(self._engine) as connection:
            connection.execute(delete(api_request).where(*_is(name), api_request.c.status.is_(None)))

    def note(self, key_id: int, method: str, path: str) -> int:
        """Write down a request before it does anything; returns the entry's id."""
        statement = insert(api_audit).values(key_id=key_id, method=method, path=path).returning(api_audit.c.id)
        with oltp_transaction(self._engine) as connection:
            return int(connection.execute(statement).scalar_one())

    def note_answer(self, entry_id: int, status: int, path: str | None = None) -> None:
        """Write down what it was answered, and what it was about where its path did not say it."""
        values: dict[str, object] = {"status": status} if path is None else {"status": status, "path": path}
        with oltp_transaction(self._engine) as connection:
            connection.execute(update(api_audit).where(api_audit.c.id == entry_id).values(values))

    def audit(self, before_id: int | None, limit: int) -> Sequence[AuditEntry]:
        """A page of the audit log, the newest first."""
        columns = api_audit.c
        statement = (
            select(
                columns.id.label("entry_id"),
                columns.at,
                columns.key_id,
                api_key.c.name.label("key_name"),
                columns.method,
                columns.path,
                columns.status,
            )
            .join(api_key, api_key.c.id == columns.key_id)
            .order_by(columns.id.desc())
            .limit(limit)
        )
        if before_id is not None:
            statement = statement.where(columns.id < before_id)
        with oltp_transaction(self._engine) as connection:
            return [AuditEntry(**row) for row in connection.execute(statement).mappings()]


def _is(name: RequestName) -> tuple[Any, Any]:
    return api_request.c.key_id == name.key_id, api_request.c.idempotency_key == name.idempotency_key


def _take(connection: Connection, name: RequestName) -> bool:
    """Whether the request is new; waits for an equal one that is in its transaction."""
    connection.execute(_FORGET, {"key_id": name.key_id, "idempotency_key": name.idempotency_key})
    statement = upsert(api_request).values(
        key_id=name.key_id, idempotency_key=name.idempotency_key, request_sha256=name.request_sha256
    )
    new = statement.on_conflict_do_nothing().returning(api_request.c.key_id)
    return connection.execute(new).one_or_none() is not None


def _answer(connection: Connection, name: RequestName) -> tuple[int, Document]:
    row = connection.execute(
        select(api_request.c.request_sha256, api_request.c.status, api_request.c.body).where(*_is(name))
    ).one()
    if bytes(row.request_sha256) != name.request_sha256:
        raise IdempotencyKeyReusedError("this Idempotency-Key was used for another request: use a new one")
    if row.status is None:
        raise ConflictError(
            "a request with this Idempotency-Key has begun and not ended, so nobody knows whether it was done: see "
            "whether it was, and use a new key to do it again"
        )
    return row.status, row.body


def _keep(connection: Connection, name: RequestName, status: int, body: Document) -> None:
    connection.execute(
        update(api_request).where(*_is(name)).values(status=status, body=dict(body), created_at=func.now())
    )
