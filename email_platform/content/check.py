"""The check before the first call: does everybody have what the content requires, and does a sample render?

Invariant: it sends nothing and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from email_platform.content.compile import CompiledContent, required_attributes
from email_platform.content.render import attributes_of, render_recipients, step_into
from email_platform.domain.manifest import Manifest
from email_platform.domain.ports import ObjectStore
from email_platform.domain.storage_layout import eligible_key
from email_platform.errors import InvalidTemplateError

_LEAD_IDS_SHOWN = 5
_SCAN_ROWS = 65_536
_SAMPLE_ROWS = 200


def check_against_manifest(
    store: ObjectStore, manifest: Manifest, compiled: CompiledContent, *, sample_rows: int = _SAMPLE_ROWS
) -> None:
    """Return where every recipient of the manifest has what the content requires, and a sample of them renders.

    Reads the used columns of ``eligible.parquet`` once, in constant memory; JSON is parsed only where an
    attribute is required. The sample is spread evenly and includes the lead with the longest attributes.

    Raises:
        InvalidTemplateError: how many recipients lack which variable, with some lead ids; or what failed for
            which lead of the sample.
    """
    columns = list(dict.fromkeys(["position", "lead_id", "email", *compiled.used_columns]))
    parse = _required_paths(compiled)
    missing: dict[str, _Missing] = {name: _Missing() for name in sorted(compiled.required)}
    step = max(1, manifest.eligible_rows // max(1, sample_rows))
    samples: list[pa.RecordBatch] = []
    longest: tuple[int, pa.RecordBatch | None] = (-1, None)
    with store.reader(eligible_key(manifest.prefix)) as reader:
        parquet = pq.ParquetFile(reader)
        for batch in parquet.iter_batches(batch_size=_SCAN_ROWS, columns=columns):
            for name in compiled.required_columns:
                column = batch.column(name)
                if column.null_count:
                    missing[name].add(column.null_count, batch.column("lead_id").filter(column.is_null()))
            if parse:
                _scan_attributes(batch, parse, missing)
            samples.append(batch.filter(_every(batch, step)))
            if "attributes" in columns and batch.num_rows:
                lengths = pc.binary_length(batch.column("attributes"))
                most = pc.max(lengths).as_py()
                if most > longest[0]:
                    longest = (most, batch.slice(pc.index(lengths, most).as_py(), 1))
    lacking = [f"{name} is missing for {entry}" for name, entry in missing.items() if entry.recipients]
    if lacking:
        first = next(name for name, entry in missing.items() if entry.recipients)
        raise InvalidTemplateError(
            f"{'; '.join(lacking)}. Give a default, as in {{{{ {first} | default('…') }}}}, "
            f"or guard it with {{% if {first} is defined %}}"
        )
    if longest[1] is not None:
        samples.append(longest[1])
    if samples:
        render_recipients(compiled, pa.Table.from_batches(samples), manifest, _SampleLinks())


def _every(batch: pa.RecordBatch, step: int) -> pa.Array:
    positions = batch.column("position")
    return pc.equal(pc.subtract(positions, pc.multiply(pc.divide(positions, step), step)), 0)


def _required_paths(compiled: CompiledContent) -> list[tuple[str, list[str]]]:
    return [(f"attributes.{key}", key.split(".")) for key in sorted(required_attributes(compiled))]


@dataclass(slots=True)
class _Missing:
    """How many recipients lack one variable, and a few of them."""

    recipients: int = 0
    lead_ids: list[int] = field(default_factory=list)

    def add(self, recipients: int, lead_ids: pa.Array) -> None:
        self.recipients += recipients
        self.lead_ids += lead_ids[: _LEAD_IDS_SHOWN - len(self.lead_ids)].to_pylist()

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.lead_ids))
        more = ", …" if self.recipients > len(self.lead_ids) else ""
        noun = "recipient" if self.recipients == 1 else "recipients"
        return f"{self.recipients:,} {noun} (lead {shown}{more})"


def _scan_attributes(
    batch: pa.RecordBatch, paths: Sequence[tuple[str, list[str]]], missing: Mapping[str, _Missing]
) -> None:
    for row, document in enumerate(batch.column("attributes").to_pylist()):
        try:
            attributes = attributes_of(document)
        except ValueError as error:
            lead_id = batch.column("lead_id")[row].as_py()
            raise InvalidTemplateError(
                f"attributes of lead {lead_id} cannot be read: {type(error).__name__}"
            ) from error
        for name, steps in paths:
            value = attributes
            for step in steps:
                value = step_into(value, step)
                if value is None:
                    entry = missing[name]
                    entry.recipients += 1
                    if len(entry.lead_ids) < _LEAD_IDS_SHOWN:
                        entry.lead_ids.append(batch.column("lead_id")[row].as_py())
                    break


class _SampleLinks:
    """Links as long as the real ones, for a check that sends nothing."""

    def url(self, campaign_id: int, lead_id: int, sender_id: int) -> str:
        return f"https://unsubscribe.example/{'0' * 60}"
