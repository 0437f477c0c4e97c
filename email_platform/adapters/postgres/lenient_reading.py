"""How the driver reads times and JSON of the OLTP database: no stored value can make a statement raise.

Invariant: a time that Python cannot hold (infinity, before year 1, after 9999) is read as `EARLIEST` or `LATEST`, which
keeps its order; a JSON document that Python refuses is read as `Unreadable`. Without this one such row fails every
statement that reads it, for all rows.

psycopg raises for both by itself: "Adapting basic Python types", sections "Date/time types adaptation" and "JSON
adaptation", of its documentation name the loaders to replace. Python refuses whole numbers of more than 4,300 digits
(``sys.set_int_max_str_digits``) and nesting beyond its recursion limit.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from psycopg import Connection, DataError
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestamptzLoader

from email_platform.domain.odd_rows import EARLIEST, LATEST, Unreadable


class BoundedTimestamptzLoader(TimestamptzLoader):
    """Like psycopg's loader, but a time that it refuses becomes `EARLIEST` or `LATEST`, whichever is nearer."""

    def load(self, data: Buffer) -> datetime:
        """The time; never raises for a value that PostgreSQL can store."""
        try:
            return super().load(data)
        except (DataError, OverflowError):
            written = bytes(data)
            return EARLIEST if written.startswith(b"-") or written.endswith(b"BC") else LATEST


def read_leniently(connection: Connection[Any]) -> None:
    """Make this connection read times this way."""
    connection.adapters.register_loader("timestamptz", BoundedTimestamptzLoader)


def read_json(document: str | bytes) -> Any:
    """The document, or `Unreadable` where Python cannot read it."""
    try:
        return json.loads(document)
    except RecursionError:
        return Unreadable("is nested too deeply to be read")
    except ValueError:
        return Unreadable("has a number of too many digits to be read")
