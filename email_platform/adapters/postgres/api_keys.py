"""Keys of the HTTP API in PostgreSQL.

Invariant: a key is kept as its SHA-256 only. It has 256 random bits, so that no slow hash is needed to keep it from
being guessed. Admitting a request and counting it against the key's rate is one statement, for all processes together.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import Engine, TextClause, func, insert, select, text, update

from email_platform.adapters.postgres.tables import api_key, app_user
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.errors import CommandRefusedError

Role = Literal["owner", "operator", "reader"]
ROLES: tuple[Role, ...] = get_args(Role)
_PREFIX_CHARACTERS = 10

# A lost count of requests harms nobody, so no request waits for the disk.
_NO_WAIT = text("set local synchronous_commit = off")


def _admit(which: str) -> TextClause:
    """Count a request of the key that the clause finds, where it is not revoked."""
    return text(
        f"""
        with found as (
            select
                id,
                least(
                    :burst,
                    tokens + extract(epoch from clock_timestamp() - coalesce(tokens_at, to_timestamp(0))) * :per_second
                ) as available
            from api_key
            where {which} and revoked_at is null
            for update
        )
        update api_key
        set
            tokens = found.available - case when found.available >= 1 then 1 else 0 end,
            tokens_at = clock_timestamp(),
            last_used_at = clock_timestamp()
        from found
        where api_key.id = found.id
        returning api_key.id, api_key.name, api_key.role, api_key.user_id, found.available
        """  # noqa: S608 - clauses of ours
    )


_BY_SECRET = _admit("key_sha256 = :digest")
_BY_ID = _admit("id = :key_id")
# Names need not be unique: of two keys with one name nobody knows which is meant.
_BY_NAME = _admit("id = (select min(id) from api_key where name = :name and revoked_at is null having count(*) = 1)")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request.

    Attributes:
        user_id: whose campaigns and senders the caller sees; None for everybody's.
    """

    key_id: int
    name: str
    role: Role
    user_id: int | None = None

    def sees(self, owner_id: int) -> bool:
        """Whether what this user owns may be shown to the caller."""
        return self.user_id is None or self.user_id == owner_id


@dataclass(frozen=True, slots=True)
class Admission:
    """A known key's request.

    Attributes:
        wait_seconds: 0 where it may go on; otherwise the key has used up its rate for so long.
    """

    caller: Caller
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One row of ``api_key``, without its hash."""

    key_id: int
    name: str
    prefix: str
    role: Role
    user_email: str | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key that was just made, with the key itself, which nobody can look up later."""

    api_key: ApiKey
    secret: str = field(repr=False)


class PostgresApiKeys:
    """Makes, lists, revokes and recognises keys."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, name: str, role: Role, user_email: str | None) -> NewApiKey:
        """Make a key.

        Raises:
            CommandRefusedError: the role and the user do not fit together, or there is no such user.
        """
        if role == "owner" and user_email is None:
            raise CommandRefusedError("a key of the role owner sees one user's campaigns: name the user")
        if role == "operator" and user_email is not None:
            raise CommandRefusedError("a key of the role operator sees all campaigns: leave the user out")
        secret = f"ep_{secrets.token_urlsafe(32)}"
        with oltp_transaction(self._engine) as connection:
            user_id: int | None = None
            if user_email is not None:
                found = select(app_user.c.id).where(app_user.c.email == user_email)
                user_id = connection.execute(found).scalar_one_or_none()
                if user_id is None:
                    raise CommandRefusedError(
                        f"there is no user {user_email}; make one with: email-platform user add {user_email} "
                        "--name NAME"
                    )
            row = connection.execute(
                insert(api_key)
                .values(
                    name=name,
                    prefix=secret[:_PREFIX_CHARACTERS],
                    key_sha256=_digest(secret),
                    role=role,
                    user_id=user_id,
                )
                .returning(api_key.c.id, api_key.c.created_at)
            ).one()
        made = ApiKey(row.id, name, secret[:_PREFIX_CHARACTERS], role, user_email, row.created_at, None, None)
        return NewApiKey(made, secret)

    def all(self) -> Sequence[ApiKey]:
        """Every key, by id; revoked ones too."""
        columns = [api_key.c[name] for name in ("name", "prefix", "role", "created_at", "last_used_at", "revoked_at")]
        statement = (
            select(api_key.c.id.label("key_id"), app_user.c.email.label("user_email"), *columns)
            .outerjoin(app_user, app_user.c.id == api_key.c.user_id)
            .order_by(api_key.c.id)
        )
        with oltp_transaction(self._engine) as connection:
            return [ApiKey(**row) for row in connection.execute(statement).mappings()]

    def revoke(self, key_id: int) -> None:
        """Let the key do nothing more, from its next request on; safe to repeat.

        Raises:
            CommandRefusedError: there is no such key.
        """
        statement = (
            update(api_key)
            .where(api_key.c.id == key_id)
            .values(revoked_at=func.coalesce(api_key.c.revoked_at, func.now()))
        )
        with oltp_transaction(self._engine) as connection:
            if not connection.execute(statement).rowcount:
                raise CommandRefusedError(f"there is no API key {key_id}; `email-platform api-key list` shows them")

    def admit(self, secret: str, per_second: float, burst: int) -> Admission | None:
        """Recognise a key and count the request; None where nobody has this key, or it is revoked.

        Args:
            secret: what the caller sent.
            per_second: how many requests a second a key may make in the long run.
            burst: how many at once after a pause.
        """
        return self._admitted(_BY_SECRET, {"digest": _digest(secret)}, per_second, burst)

    def admit_id(self, key_id: int, per_second: float, burst: int) -> Admission | None:
        """The same for a key that was recognised before, as by a session."""
        return self._admitted(_BY_ID, {"key_id": key_id}, per_second, burst)

    def admit_name(self, name: str, per_second: float, burst: int) -> Admission | None:
        """The same by a name that somebody vouches for; None as well where two keys that are not revoked have it."""
        return self._admitted(_BY_NAME, {"name": name}, per_second, burst)

    def _admitted(
        self, statement: TextClause, which: dict[str, Any], per_second: float, burst: int
    ) -> Admission | None:
        with oltp_transaction(self._engine) as connection:
            connection.execute(_NO_WAIT)
            row = connection.execute(
                statement, {**which, "per_second": per_second, "burst": float(burst)}
            ).one_or_none()
        if row is None:
            return None
        wait_seconds = 0.0 if row.available >= 1 else (1 - row.available) / per_second
        return Admission(Caller(row.id, row.name, row.role, row.user_id), wait_seconds)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
