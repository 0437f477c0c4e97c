"""Leads from a file that is uploaded, checked and kept as `email-platform lead import` does it.

Invariant: every row is counted; those that cannot be kept are shown with their numbers and reasons. An import that was
interrupted goes on where the same file is uploaded again.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from starlette.responses import Response

from email_platform.adapters.postgres.erased import erasure_key
from email_platform.adapters.postgres.lead_import import ImportedCounts, import_leads
from email_platform.api.problems import FieldProblem, field_refusal
from email_platform.audience.lead_file import ImportedLead, LeadFile, RowProblem, rejects_header
from email_platform.audience.lead_rows import file_fingerprint, lead_rows
from email_platform.console.forms import field_problems_of
from email_platform.console.visit import LARGEST_UPLOAD_BYTES, Visit
from email_platform.errors import CommandRefusedError

_SHOWN_REJECTS = 1000
_SHOWN_NUMBERS = 20


@dataclass(slots=True)
class _Rejects:
    """How many rows were left out, and the first of them."""

    header: list[str]
    count: int = 0
    first: list[RowProblem] = field(default_factory=list)

    def others(self, read: Iterator[ImportedLead | RowProblem]) -> Iterator[ImportedLead]:
        for one in read:
            if isinstance(one, ImportedLead):
                yield one
                continue
            self.count += 1
            if len(self.first) < _SHOWN_REJECTS:
                self.first.append(one)

    def as_csv(self) -> str:
        """As the command line writes them, to be mended and uploaded."""
        written = io.StringIO()
        lines = csv.writer(written)
        lines.writerow(rejects_header(self.header))
        lines.writerows(one.line for one in self.first)
        return written.getvalue()


def show_leads(visit: Visit) -> Response:
    """The form."""
    return _shown(visit, {})


def import_file(visit: Visit) -> Response:
    """Import the file, or only check it; then say what became of each row."""
    visit.services.leads.require_ours()
    is_dry = "dry_run" in visit.form
    try:
        names, numbers = _mapping(visit.form.get("map", "")), visit.form.get("numbers", "").split()
        with _uploaded(visit) as file:
            try:
                header, rows = lead_rows(file)
                read = LeadFile(header, names, numbers)
            except ValueError as unreadable:
                raise field_refusal("file", f"cannot be imported: {unreadable}", "") from None
            rejects = _Rejects(header)
            counts = import_leads(
                visit.services.engine,
                rejects.others(read.read(rows)),
                erasure_key(visit.services.settings),
                fingerprint=file_fingerprint(file, names, numbers),
                dry_run=is_dry,
            )
    except CommandRefusedError as refused:
        return _shown(visit, visit.form, [FieldProblem(field="file", problem=str(refused), mend="")])
    except Exception as failure:
        return _shown(visit, visit.form, field_problems_of(failure))
    return _shown(visit, visit.form, done=_done(counts, rejects, is_dry=is_dry))


def _done(counts: ImportedCounts, rejects: _Rejects, *, is_dry: bool) -> Mapping[str, Any]:
    return {
        "counts": counts,
        "is_dry": is_dry,
        "rejected": rejects.count,
        "rejects": rejects.first[:_SHOWN_NUMBERS],
        "as_csv": rejects.as_csv() if rejects.count else "",
        "shown_rejects": len(rejects.first),
        "repeated": counts.repeated[:_SHOWN_NUMBERS],
        "erased": counts.erased[:_SHOWN_NUMBERS],
    }


def _mapping(written: str) -> dict[str, str]:
    """Lines as ``E-Mail=email``.

    Raises:
        Refusal: names the field.
    """
    names: dict[str, str] = {}
    for line in written.splitlines():
        name, equals, meaning = line.partition("=")
        if not line.strip():
            continue
        if not equals or not name.strip():
            raise field_refusal("map", f"has a line without a meaning: {line!r}", "Write it as E-Mail=email.")
        names[name.strip()] = meaning.strip()
    return names


@contextmanager
def _uploaded(visit: Visit) -> Iterator[Path]:
    """The file, for as long as it is read.

    Raises:
        Refusal: none was chosen.
    """
    upload = visit.upload
    if upload is None or not upload.filename:
        raise field_refusal("file", "is missing", "Choose a CSV or Parquet file.")
    kind = ".parquet" if upload.filename.lower().endswith(".parquet") else ".csv"
    with TemporaryDirectory(prefix="lead-import-") as folder:
        path = Path(folder) / f"file{kind}"
        with path.open("wb") as target:
            shutil.copyfileobj(upload.file, target)
        yield path


def _shown(
    visit: Visit,
    typed: Mapping[str, str],
    problems: Any = (),
    done: Mapping[str, Any] | None = None,
) -> Response:
    values = {
        "typed": typed,
        "problems": problems,
        "wrong": {one.field: one for one in reversed(problems)},
        "done": done,
        "largest_mb": LARGEST_UPLOAD_BYTES >> 20,
        "ours": visit.services.leads.is_ours,
    }
    return visit.page("leads.html.j2", values, 422 if problems else 200)
