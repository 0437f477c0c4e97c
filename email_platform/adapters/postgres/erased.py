"""Who was erased, as everything that reads or writes addresses asks it.

Invariant: while there is anybody who was erased, a process without the right key gets an error and goes no further: it
could not recognise them, and would mail them again.

Nothing is hashed while nobody was erased: each question begins with one look into an index.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, any_, bindparam, func, select, text
from sqlalchemy import Text as SqlText
from sqlalchemy.dialects.postgresql import ARRAY

from email_platform.adapters.postgres.tables import erasure
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.erasure import ErasureKey, pseudonyms_of
from email_platform.errors import ConfigurationError
from email_platform.settings import Settings

ERASED = "erased"
"""Why somebody who was erased is not mailed; a word of receipts and explanations."""
WRONG_KEY = text(
    "select cast(null as bigint) as lead_id, cast(null as text) as address, cast(null as text) as reason "
    "from (select min(key_id) as first, max(key_id) as last from erasure) as keys "
    "where first <> :erasure_key_id or last <> :erasure_key_id"
)
"""One row of nulls where somebody was erased under another key than ours; takes `key_parameters`."""


def erasure_key(settings: Settings) -> ErasureKey | None:
    """The key of the settings; None where none is set."""
    return None if settings.erasure_key is None else ErasureKey(settings.erasure_key.get_secret_value())


def key_parameters(key: ErasureKey | None) -> dict[str, Any]:
    """What SQL that calls ``erased_address`` takes."""
    return {
        "erasure_key_id": "" if key is None else key.key_id,
        "erasure_inner": None if key is None else key.inner_pad,
        "erasure_outer": None if key is None else key.outer_pad,
    }


def wrong_key() -> ConfigurationError:
    """What is raised where people were erased under another key."""
    return ConfigurationError(
        "EMAIL_PLATFORM_ERASURE_KEY is not the key under which people were erased, so nobody can tell who they are and "
        "they would be mailed again: set it to the value that it had"
    )


def is_anybody_erased(connection: Connection, key: ErasureKey | None) -> bool:
    """Whether anybody was.

    Raises:
        ConfigurationError: somebody was, under another key.
    """
    first, last = connection.execute(select(func.min(erasure.c.key_id), func.max(erasure.c.key_id))).one()
    if first is None:
        return False
    if key is None or (first, last) != (key.key_id, key.key_id):
        raise wrong_key()
    return True


class ErasedAddresses:
    """`email_platform.domain.ports.ErasedLookup` over the table ``erasure``.

    Args:
        engine: the OLTP database.
        key: of the settings.
    """

    def __init__(self, engine: Engine, key: ErasureKey | None) -> None:
        self._engine = engine
        self._key = key

    def is_empty(self) -> bool:
        """Whether nobody was erased.

        Raises:
            ConfigurationError, PartUnavailableError.
        """
        with oltp_transaction(self._engine) as connection:
            return not is_anybody_erased(connection, self._key)

    def pseudonyms(self, addresses: Collection[str]) -> Mapping[str, str]:
        """Of these addresses those that were erased, each with what stands in its place.

        Raises:
            ConfigurationError: people were erased under another key.
            PartUnavailableError: PostgreSQL is away.
        """
        with oltp_transaction(self._engine) as connection:
            if not addresses or not is_anybody_erased(connection, self._key) or self._key is None:
                return {}
            by_address = pseudonyms_of(self._key, addresses)
            wanted = bindparam("wanted", sorted(set(by_address.values())), ARRAY(SqlText))
            found: set[str] = set(
                connection.execute(select(erasure.c.pseudonym).where(erasure.c.pseudonym == any_(wanted))).scalars()
            )
        return {address: pseudonym for address, pseudonym in by_address.items() if pseudonym in found}
