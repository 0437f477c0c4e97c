"""Renders a campaign's content: one skeleton for all, values for each recipient, from the frozen manifest alone.

Invariant: the same manifest row renders to the same bytes on every machine at any time, and a recipient whose
message cannot be rendered changes nobody else's. No value of a lead can add a header, markup, or unbounded work.

A template is Jinja2 with these variables:

    first_name last_name email country city plan language age     the lead; NULL counts as missing
    attributes.<key>, attributes.<key>.<key>                      the lead's JSON; null counts as missing
    unsubscribe_url                                               signed, one per recipient and campaign
    campaign.id campaign.from_name campaign.from_address campaign.date campaign.year

A missing value is an error unless the template says what to do: ``{{ first_name | default('there') }}`` or
``{% if attributes.score is defined %}…{% endif %}``. What a template may do is an allow-list of filters, tests,
methods and tags; anything that depends on chance or the clock, or that can grow without bound, is not on it. See
docs/templates.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from jinja2 import UndefinedError

from email_platform.content.budget import Budget
from email_platform.content.compile import CompiledContent, Part
from email_platform.content.exact_number import attributes_of
from email_platform.content.layout import Layout, UnsubscribeLinks, header_text
from email_platform.content.pieces import Direct, escaped, walk
from email_platform.content.problem import ContentProblem, missing, reason_of
from email_platform.domain.manifest import Manifest
from email_platform.domain.message import Skeleton, joined

_LONGEST_CHARACTER_BYTES = 4
_NO_TEXT = ""  # stands for the values of a row that has a problem


@dataclass(frozen=True, slots=True)
class RenderedRows:
    """The messages of some rows of a manifest.

    Attributes:
        skeleton: the same for all rows of the manifest.
        values: one per row, in order: the skeleton's values, or why there is no message for this row.
    """

    skeleton: Skeleton
    values: Sequence[tuple[str, ...] | ContentProblem]


def step_into(value: Any, step: str) -> Any:
    """What stands under a key or a position, or None."""
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list | str) and step.isdecimal() and int(step) < len(value):
        return value[int(step)]
    return None


def render_rows(
    compiled: CompiledContent,
    rows: pa.Table,
    manifest: Manifest,
    unsubscribe: UnsubscribeLinks,
    layout: Layout | None = None,
) -> RenderedRows:
    """The values of each row, in order; the same rows always give the same values.

    Args:
        compiled: the content.
        rows: rows of the manifest (`email_platform.domain.manifest.ELIGIBLE_SCHEMA`), with at least the used columns.
        manifest: for the campaign's id and sender.
        unsubscribe: makes the signed link for body and headers (RFC 8058).
        layout: of this content and manifest, where it was made before.

    Raises:
        InvalidTemplateError: what depends on the campaign alone cannot be computed.
    """
    layout = layout or Layout(compiled, manifest, unsubscribe)
    return RenderedRows(layout.skeleton, _Rows(compiled, rows, manifest, unsubscribe, layout).values())


class _Rows:
    """Some rows, on their way to values: one list a value, so that plain columns never meet Python row by row.

    Length: each kind of value has its way to a column, and all of them share the rows' problems.
    """

    def __init__(
        self,
        compiled: CompiledContent,
        rows: pa.Table,
        manifest: Manifest,
        unsubscribe: UnsubscribeLinks,
        layout: Layout,
    ) -> None:
        self._compiled, self._rows, self._layout = compiled, rows, layout
        self._count = rows.num_rows
        self._problems: dict[int, str] = {}
        self._documents: list[str] = []  # the leads' attributes as they are stored, and read
        self._attributes: list[Any] = []
        self._columns: list[list[str]] = [[] for _ in layout.keys]
        ids = rows.column("lead_id").to_pylist()
        self._urls = [unsubscribe.url(manifest.campaign_id, lead, manifest.sender.sender_id) for lead in ids]
        self._lead: dict[str, list[Any]] = {
            name: rows.column(name).to_pylist() for name in compiled.used_columns if name != "attributes"
        }

    def values(self) -> list[tuple[str, ...] | ContentProblem]:
        layout = self._layout
        for index, key in enumerate(layout.keys):
            if isinstance(key, Direct) and key.root != "attributes":
                self._columns[index] = self._plain_column(key)
        self._attributes_and_programs()
        self._check_sizes()
        whole: Sequence[Sequence[str]] = self._columns[: layout.body_values]
        if layout.subject is not None:
            whole = [*whole, self._subjects(layout.subject)]
        values: list[tuple[str, ...] | ContentProblem] = list(zip(*whole, strict=True))
        for row, reason in self._problems.items():
            values[row] = ContentProblem(reason)
        return values

    def _plain_column(self, key: Direct) -> list[str]:
        if key.root == "unsubscribe_url":
            return [escaped(url) for url in self._urls] if key.escaped else self._urls
        column = self._lead[key.root]
        if not key.default_for_false and not self._rows.column(key.root).null_count:
            if key.escaped:
                return [escaped(value) if isinstance(value, str) else str(value) for value in column]
            return column if pa.types.is_string(self._rows.column(key.root).type) else [str(value) for value in column]
        texts: list[str] = []
        for row, value in enumerate(column):
            try:
                texts.append(key.text(value))
            except UndefinedError:
                self._problems.setdefault(row, missing(key.name))
                texts.append(_NO_TEXT)
        return texts

    def _attributes_and_programs(self) -> None:
        """What needs the row's attributes or Jinja; whatever fails for one row is this row's outcome."""
        layout = self._layout
        deep = [
            (index, key)
            for index, key in enumerate(layout.keys)
            if isinstance(key, Direct) and key.root == "attributes"
        ]
        programs = [part for part in self._compiled.parts if part.pieces.program is not None]
        if not deep and not programs:
            return
        self._attributes = [None] * self._count
        if "attributes" in self._compiled.used_columns:
            self._read_attributes()
        for index, key in deep:
            self._columns[index] = self._deep_column(key)
        if programs:
            self._run_programs(programs)

    def _read_attributes(self) -> None:
        self._documents = self._rows.column("attributes").to_pylist()
        for row, document in enumerate(self._documents):
            try:
                self._attributes[row] = attributes_of(document)
            except Exception as error:
                self._fail(row, error)

    def _deep_column(self, key: Direct) -> list[str]:
        """One variable below the attributes, for every row."""
        environment = self._compiled.html.environment
        step = key.steps[0][1] if len(key.steps) == 1 and isinstance(key.steps[0][1], str) else None
        texts: list[str] = []
        for row, attributes in enumerate(self._attributes):
            # What stands in a dictionary is what the sandbox finds there.
            value = attributes.get(step) if step is not None and type(attributes) is dict else None
            try:
                if value is None:
                    value = walk(environment, attributes, key.steps)
                text = key.text(value)
                if "\\u" in self._documents[row]:
                    text.encode()  # half a surrogate pair has no UTF-8 form
                texts.append(text)
            except Exception as error:
                self._fail(row, error)
                texts.append(_NO_TEXT)
        return texts

    def _run_programs(self, programs: Sequence[Part]) -> None:
        computed = [(key, index) for index, key in enumerate(self._layout.keys) if not isinstance(key, Direct)]
        columns: dict[int, list[str]] = {index: [] for _, index in computed}
        for row in range(self._count):
            outputs: dict[tuple[str, int], str] = {}
            if row not in self._problems:
                try:
                    outputs = self._computed(row, programs, self._attributes[row])
                    if self._documents and "\\u" in self._documents[row]:
                        for text in outputs.values():
                            text.encode()
                except Exception as error:
                    self._fail(row, error)
                    outputs = {}
            for key, index in computed:
                columns[index].append(outputs.get(key, _NO_TEXT))
        for index, texts in columns.items():
            self._columns[index] = texts

    def _fail(self, row: int, error: Exception) -> None:
        if row not in self._problems:
            self._problems[row] = self._reason(row, self._attributes[row], bool(self._documents), error)

    def _computed(self, row: int, programs: Sequence[Part], attributes: Any) -> dict[tuple[str, int], str]:
        """The outputs of all programs for one row, by part and index."""
        variables = self._variables(row, attributes)
        budget = Budget()
        outputs: dict[tuple[str, int], str] = {}
        for part in programs:
            program = part.pieces.program
            assert program is not None
            budget.begin_part(self._compiled.maximum_bytes(part.name))
            try:
                texts = program.run(variables, budget)
            except UndefinedError:
                raise
            except Exception as error:
                raise _PartError(reason_of(error, part.name, program.template)) from error
            outputs |= {(part.name, index): text for index, text in enumerate(texts)}
        return outputs

    def _variables(self, row: int, attributes: Any) -> dict[str, Any]:
        variables: dict[str, Any] = {**self._layout.campaign, "unsubscribe_url": self._urls[row]}
        for name, column in self._lead.items():
            if (value := column[row]) is not None:
                variables[name] = value
        if attributes is not None:
            variables["attributes"] = attributes
        return variables

    def _reason(self, row: int, attributes: Any, needs_attributes: bool, error: Exception) -> str:
        if isinstance(error, _PartError):
            return str(error)
        if needs_attributes and not isinstance(attributes, dict):
            return f"attributes cannot be read ({type(error).__name__})"
        if isinstance(error, UndefinedError):
            lacking = _missing_variable(self._compiled, self._variables(row, attributes))
            return missing(lacking) if lacking is not None else reason_of(error)
        if isinstance(error, UnicodeEncodeError):
            return "attributes hold half a surrogate pair, which has no UTF-8 form"
        return reason_of(error)

    def _subjects(self, pieces: Sequence[str | int]) -> list[str]:
        limit = self._compiled.limits.subject_characters
        maximum_bytes = self._compiled.maximum_bytes("subject")
        subjects: list[str] = []
        for row, values in enumerate(zip(*self._columns, strict=True)):
            subject = joined(pieces, values)
            if len(subject) > maximum_bytes:
                self._problems.setdefault(row, f"subject template: the output is longer than {maximum_bytes:,} bytes")
            subjects.append(header_text(subject, limit))
        return subjects

    def _check_sizes(self) -> None:
        for part, pieces in (("html", self._layout.skeleton.html), ("text", self._layout.skeleton.text)):
            maximum_bytes = self._compiled.maximum_bytes(part)
            for row in _rows_above(maximum_bytes, pieces, self._columns, self._count):
                self._problems.setdefault(row, f"{part} template: the output is longer than {maximum_bytes:,} bytes")


def _rows_above(
    maximum_bytes: int, pieces: Sequence[str | int], columns: Sequence[Sequence[str]], count: int
) -> Iterator[int]:
    """The rows whose part is longer than allowed; none is measured where the longest values together would fit."""
    static_bytes = sum(len(piece.encode()) for piece in pieces if isinstance(piece, str))
    times = Counter(piece for piece in pieces if isinstance(piece, int))
    longest = sum(uses * max(map(len, columns[index]), default=0) for index, uses in times.items())
    if static_bytes + _LONGEST_CHARACTER_BYTES * longest <= maximum_bytes:
        return
    for row in range(count):
        size_bytes = sum(uses * len(columns[index][row].encode()) for index, uses in times.items())
        if static_bytes + size_bytes > maximum_bytes:
            yield row


class _PartError(Exception):
    """A part's program failed; the text is the reason."""


def _missing_variable(compiled: CompiledContent, variables: Mapping[str, Any]) -> str | None:
    """The first required variable that is not there."""
    for name in sorted(compiled.required):
        root, *steps = name.split(".")
        if root == "campaign":
            continue
        value = variables.get(root)
        for step in steps:
            value = step_into(value, step)
        if value is None:
            return name
    return None
