"""Leads from a table of texts, such as a CSV file: each row becomes a lead, or a problem with its number.

Invariant: one bad row touches no other, and no row vanishes. Addresses are trimmed and judged as
`email_platform.domain.typed_address` says; what a cell holds is never guessed: an attribute is a text unless its column
is named as a number.

| column | meaning |
| --- | --- |
| email | required |
| own_key | the lead's key in its owner's own system, 1 to 200 characters; it finds the lead whatever its address is |
| first_name, last_name, city, plan, language | texts; an empty cell says nothing |
| country | two letters, ISO 3166-1 |
| age | a whole number, 0 to 150 |
| row, problem | nothing: a file of rows that were left out has them |
| any other | an attribute of that name |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from email_platform.audience.conditions.fields import ATTRIBUTE_FIELD, ATTRIBUTE_PREFIX
from email_platform.domain.addresses import mailable_address
from email_platform.domain.odd_rows import MAX_ATTRIBUTES_BYTES
from email_platform.domain.typed_address import address_problem

TEXT_COLUMNS = ("first_name", "last_name", "country", "city", "plan", "language")
PROBLEM_COLUMNS = ("row", "problem")
WAS_ERASED = "email: this person was erased at their request and does not become a lead again"
LEAD_COLUMNS = ("email", "own_key", *TEXT_COLUMNS, "age")
_COUNTRY = re.compile(r"[A-Za-z]{2}")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,99})(\.[0-9]{1,100})?")
_AGE = re.compile(r"[0-9]{1,3}")
_OLDEST = 150
_LONGEST_KEY = 200


@dataclass(frozen=True, slots=True)
class ImportedLead:
    """One row that can be kept.

    Attributes:
        number: of the row, as the file counts them.
        columns: of `LEAD_COLUMNS` those that the row says something about; the address in the form that is mailed.
        attributes: as JSON text.
    """

    number: int
    columns: Mapping[str, str | int] = field(repr=False)
    attributes: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One row that was left out, and why; the reason holds no value."""

    number: int
    problem: str
    cells: tuple[str, ...] = field(repr=False)

    @property
    def line(self) -> list[str | int]:
        """As a row of the file of rejects, below `rejects_header`."""
        return [self.number, self.problem, *self.cells]


def rejects_header(header: Sequence[str]) -> list[str]:
    """The header of a file of rejects, which can be mended and read again.

    Args:
        header: of the file that was read.
    """
    return [*PROBLEM_COLUMNS, *header]


class LeadFile:
    """Reads rows of one file.

    Args:
        header: the columns' names.
        names: which column means what, by the file's name; others mean what they are called.
        numbers: columns whose attributes are numbers.

    Raises:
        ValueError: a column is missing, named twice or unknown; says which and what to do.
    """

    def __init__(self, header: Sequence[str], names: Mapping[str, str], numbers: Iterable[str] = ()) -> None:
        if unknown := [name for name in names if name not in header]:
            raise ValueError(f"there is no column {unknown[0]!r}; the file has: {', '.join(header)}")
        self._header = [names.get(name, "" if name in PROBLEM_COLUMNS else name).strip() for name in header]
        self._numbers = set(numbers)
        if "email" not in self._header:
            raise ValueError("no column means `email`; name it so, or use --map 'E-Mail=email'")
        for name in self._header:
            if name and self._header.count(name) > 1:
                raise ValueError(f"two columns mean {name!r}; leave one out with --map 'NAME='")
            if name and name not in LEAD_COLUMNS and not ATTRIBUTE_FIELD.search(ATTRIBUTE_PREFIX + name):
                raise ValueError(
                    f"{name!r} cannot be an attribute: a letter or _ and then up to 63 letters, digits, _ or -; "
                    f"rename it with --map, or leave it out with --map '{name}='"
                )
        if unknown := sorted(self._numbers - set(self._header)):
            raise ValueError(f"there is no column {unknown[0]!r} to read as a number")

    def read(self, rows: Iterable[tuple[int, Sequence[str]]]) -> Iterator[ImportedLead | RowProblem]:
        """Each row with its number, as a lead or as a problem."""
        for number, cells in rows:
            try:
                yield self._lead(number, cells)
            except _BadRowError as bad:
                yield RowProblem(number, str(bad), tuple(cells))

    def _lead(self, number: int, cells: Sequence[str]) -> ImportedLead:
        if len(cells) != len(self._header):
            raise _BadRowError(f"has {len(cells)} cells; the header has {len(self._header)}")
        columns: dict[str, str | int] = {}
        attributes: dict[str, object] = {}
        for name, cell in zip(self._header, cells, strict=True):
            if "\0" in cell:
                raise _BadRowError(f"{name}: holds a NUL character")
            try:
                cell.encode()
            except UnicodeEncodeError:
                raise _BadRowError(f"{name}: holds half a surrogate pair") from None
            text = cell.strip()
            if not name or (not text and name != "email"):
                continue
            if name in LEAD_COLUMNS:
                columns[name] = _column(name, text)
            elif name in self._numbers:
                if not _NUMBER.fullmatch(text):
                    raise _BadRowError(f"{name}: is no number such as 17 or 20.00")
                attributes[name] = _Digits(text)
            else:
                attributes[name] = cell
        document = _json(attributes)
        if len(document.encode()) > MAX_ATTRIBUTES_BYTES:
            raise _BadRowError(f"the attributes take more than {MAX_ATTRIBUTES_BYTES >> 10} kB")
        return ImportedLead(number, columns, document)


class _BadRowError(Exception):
    pass


class _Digits(str):
    """A number, as it is written: ``20.00`` stays ``20.00``."""

    __slots__ = ()


def _column(name: str, text: str) -> str | int:
    if name == "email":
        if problem := address_problem(text):
            raise _BadRowError(f"email: {problem}")
        return mailable_address(text)
    if name == "own_key" and len(text) > _LONGEST_KEY:
        raise _BadRowError(f"own_key: has more than {_LONGEST_KEY} characters")
    if name == "age":
        if not _AGE.fullmatch(text) or int(text) > _OLDEST:
            raise _BadRowError(f"age: must be a whole number from 0 to {_OLDEST}")
        return int(text)
    if name == "country":
        if not _COUNTRY.fullmatch(text):
            raise _BadRowError("country: must be two letters, as DE (ISO 3166-1)")
        return text.upper()
    return text


def _json(attributes: Mapping[str, object]) -> str:
    members = (
        f"{json.dumps(name)}:{value if isinstance(value, _Digits) else json.dumps(value, ensure_ascii=False)}"
        for name, value in attributes.items()
    )
    return "{" + ",".join(members) + "}"
