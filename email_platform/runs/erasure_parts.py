"""What erasing a person needs of the outside, and what it reports; `email_platform.runs.erase` does it.

Invariant: a request's repr and its reasons for waiting hold the pseudonym and never the address.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from email_platform.domain.erasure import ErasedPerson
from email_platform.runs.parts import Parts


@dataclass(frozen=True, slots=True)
class RewrittenObject:
    """An object with a new content."""

    key: str
    old_sha256: str
    new_sha256: str


@dataclass(frozen=True, slots=True)
class Erasure:
    """One request.

    Attributes:
        address: as addresses are compared; None once it is finished.
        removed: what was removed, by place: leads, objects, rows of a table, cells of the warehouse.
        waits_for: why it is not finished, in words.
        rewriting: objects that were about to be replaced.
    """

    pseudonym: str
    address: str | None = field(repr=False)
    requested_at: datetime
    finished_at: datetime | None
    removed: Mapping[str, int]
    waits_for: tuple[str, ...] = ()
    rewriting: tuple[RewrittenObject, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundPerson:
    """What names a person, without anything being changed.

    Attributes:
        found: by place, as `Erasure.removed`.
        waits_for: what would have to end first.
        kept: what names the person and is not ours to change, in words.
    """

    pseudonym: str
    found: Mapping[str, int]
    waits_for: tuple[str, ...]
    kept: tuple[str, ...]


class ErasureBook(Protocol):
    """Requests, and what of a person is in PostgreSQL; every method is one transaction or a few."""

    def pseudonym(self, address: str) -> str:
        """What stands in the place of the address.

        Raises:
            ConfigurationError: there is no key, or another one than before.
        """
        ...

    def begin(self, address: str) -> Erasure:
        """Write the request down and suppress the person for every sender; idempotent."""
        ...

    def find(self, pseudonym: str) -> Erasure | None:
        """The request with this pseudonym."""
        ...

    def unfinished(self) -> Sequence[Erasure]:
        """Requests that are not finished, the oldest first."""
        ...

    def add_removed(self, pseudonym: str, counts: Mapping[str, int]) -> None:
        """Add to the counts of what was removed."""
        ...

    def set_rewriting(self, pseudonym: str, objects: Collection[RewrittenObject]) -> None:
        """Remember which objects are about to be replaced."""
        ...

    def set_waiting(self, pseudonym: str, reasons: Sequence[str]) -> None:
        """Say why the request cannot be finished now."""
        ...

    def finish(self, pseudonym: str) -> Erasure:
        """Forget the address."""
        ...

    def delete_leads(self, person: ErasedPerson, *, dry_run: bool) -> int:
        """Delete the leads with the address, where the table is ours."""
        ...

    def foreign_leads(self, person: ErasedPerson) -> int:
        """Leads with the address in a relation that is not ours."""
        ...

    def suppress_again(self, person: ErasedPerson, *, dry_run: bool) -> int:
        """Give suppressions of the address the pseudonym; how many there were."""
        ...

    def scrub_tables(self, person: ErasedPerson, *, dry_run: bool) -> Mapping[str, int]:
        """Put the pseudonym into texts that name the person; rows by table."""
        ...

    def scrub_receipts(
        self, campaign_id: int, chunk_indexes: Collection[int], person: ErasedPerson, *, dry_run: bool
    ) -> int:
        """The same in the ledger's receipts of these chunks."""
        ...

    def templates_naming(self, person: ErasedPerson) -> Sequence[int]:
        """Campaigns whose templates name the person."""
        ...

    def being_frozen(self) -> Sequence[int]:
        """Campaigns whose audience is being resolved now."""
        ...

    def are_old_rows_imported(self) -> bool:
        """Whether an import of old rows is under way, which may have read the person before the request."""
        ...

    def replace_content(self, objects: Collection[RewrittenObject]) -> None:
        """Register the new contents; what was loaded counts as loaded."""
        ...


class PersonInWarehouse(Protocol):
    """What of a person is in the warehouse."""

    def erase(self, person: ErasedPerson, *, dry_run: bool) -> Mapping[str, int]:
        """Put the pseudonym into cells that name the person, in raw tables and reports; cells by table.

        Raises:
            PartUnavailableError: the warehouse is away.
        """
        ...

    def replace_sources(self, objects: Collection[RewrittenObject]) -> None:
        """Have rows that were loaded from these objects name the new contents, so that nothing is loaded again."""
        ...


@dataclass(frozen=True, slots=True)
class EraseParts:
    """What erasing needs of the outside.

    Attributes:
        on_step: called after each thing that is done, with its name; for tests of deaths.
    """

    parts: Parts
    book: ErasureBook
    warehouse: PersonInWarehouse
    on_step: Callable[[str], None] = lambda _: None
