"""The warehouse's side of the old table's import: fingerprints and keys of what ``legacy_email`` holds.

Invariant: a row's canonical text and checksum are those of `email_platform.adapters.postgres.legacy_source`, bit by
bit; a test holds the two to each other with hostile rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from email_platform.adapters.clickhouse.address import ClickHouseAddress
from email_platform.adapters.clickhouse.client import clickhouse_errors, connect
from email_platform.adapters.clickhouse.production_form import ProductionForm, production_form, session_settings
from email_platform.domain.erasure import PSEUDONYM_END
from email_platform.runs.legacy_table import KEY_COLUMNS, RANGE_IDS, SOURCE_SCHEMA, Fingerprint, Fingerprints, Month
from email_platform.settings import Settings

_KEYS = pa.schema([SOURCE_SCHEMA.field(name) for name in KEY_COLUMNS])
_LIVE_ROWS_OF_MONTH = """
    from legacy_email final
    where is_deleted = 0
        and created_at >= toDateTime64({start:String}, 6, 'UTC') and created_at < toDateTime64({end:String}, 6, 'UTC')
"""


def canonical_sql() -> str:
    """The row's canonical text as an expression of ClickHouse."""
    columns = ", ',', ".join(_canonical_column(column) for column in SOURCE_SCHEMA)
    return f"concat({columns})"


def _canonical_column(column: pa.Field) -> str:
    name = column.name
    if pa.types.is_timestamp(column.type):
        text = f"toString(toUnixTimestamp64Micro({name}))"
    elif pa.types.is_string(column.type):
        text = f"concat(toString(lengthUTF8({name})), ':', {name})"
    else:
        text = f"toString({name})"
    return f"ifNull({text}, 'N')" if column.nullable else text


# The first 8 bytes of the MD5 as a big-endian number, without its last 4 bits: 60 bits, summed exactly.
_CHECKSUM = f"sum(toUInt128(bitShiftRight(byteSwap(reinterpretAsUInt64(substring(MD5({canonical_sql()}), 1, 8))), 4)))"


class ClickHouseLegacyEmails:
    """`email_platform.runs.legacy_import.LegacyWarehouse` over the table ``legacy_email``."""

    def __init__(self, address: ClickHouseAddress, form: ProductionForm | None = None) -> None:
        self._address = address
        self._client = connect(address, settings=session_settings(form))

    @classmethod
    def from_settings(cls, settings: Settings) -> ClickHouseLegacyEmails:
        """Connect to ``clickhouse_url``.

        Raises:
            ConfigurationError: wrong URL, credentials or database.
            PartUnavailableError: nothing answers.
        """
        return cls(ClickHouseAddress.parse(settings.clickhouse_url.get_secret_value()), production_form(settings))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def fingerprints(self, month: Month) -> Fingerprints:
        """Of the live rows created in the month, by range; see the Protocol."""
        with clickhouse_errors(str(self._address), [self._address.password]):
            rows = self._client.query(
                f"select intDiv(id, {RANGE_IDS}), count(), {_CHECKSUM} {_LIVE_ROWS_OF_MONTH} group by 1",
                parameters=_bounds(month),
            ).result_rows
        return {int(index): Fingerprint(int(count), int(checksum)) for index, count, checksum in rows}

    def recipients(self, campaign_id: int) -> Iterator[tuple[str, str]]:
        """Address and status of every live old row of a campaign, streamed."""
        with (
            clickhouse_errors(str(self._address), [self._address.password]),
            self._client.query_rows_stream(
                "select email, status from legacy_email final "
                "where is_deleted = 0 and campaign_id = {campaign_id:Int64} order by lead_id, id",
                parameters={"campaign_id": campaign_id},
            ) as rows,
        ):
            yield from rows

    def pseudonymous_ids(self, month: Month) -> Mapping[int, Sequence[int]]:
        """By range, ids of rows whose texts have a pseudonym; see the Protocol."""
        texts = [column.name for column in SOURCE_SCHEMA if pa.types.is_string(column.type)]
        has_one = " or ".join(f"position(ifNull({name}, ''), {{pseudonym_end:String}}) > 0" for name in texts)
        with clickhouse_errors(str(self._address), [self._address.password]):
            rows = self._client.query(
                f"select intDiv(id, {RANGE_IDS}), groupArray(id) {_LIVE_ROWS_OF_MONTH} and ({has_one}) group by 1",
                parameters={**_bounds(month), "pseudonym_end": PSEUDONYM_END},
            ).result_rows
        return {int(index): sorted(ids) for index, ids in rows}

    def keys(self, month: Month, range_index: int) -> pa.Table:
        """The keys of one range's live rows of the month; see the Protocol."""
        first_id = range_index * RANGE_IDS
        with clickhouse_errors(str(self._address), [self._address.password]):
            table: pa.Table = self._client.query_arrow(
                f"select {', '.join(KEY_COLUMNS)} {_LIVE_ROWS_OF_MONTH} "
                "and id >= {first_id:Int64} and id < {next_id:Int64}",
                parameters={**_bounds(month), "first_id": first_id, "next_id": first_id + RANGE_IDS},
            )
        return table.cast(_KEYS)


def _bounds(month: Month) -> dict[str, str]:
    return {"start": f"{month.start:%Y-%m-%d %H:%M:%S}", "end": f"{month.end:%Y-%m-%d %H:%M:%S}"}
