"""The check before the first call: which recipients cannot be rendered, and why.

Invariant: it sends nothing and changes nothing, and it says how many recipients it looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from email_platform.content.apart import ROWS_AT_ONCE, RenderingApart
from email_platform.content.compile import CompiledContent, required_attributes
from email_platform.content.exact_number import attributes_of
from email_platform.content.layout import Layout
from email_platform.content.problem import ContentProblem, missing
from email_platform.content.render import render_rows, step_into
from email_platform.domain.manifest import Manifest
from email_platform.domain.ports import ObjectStore
from email_platform.domain.storage_layout import eligible_key
from email_platform.errors import InvalidTemplateError

RENDERED_ROWS = 200_000
"""An audience of at most so many recipients is rendered whole; at 5 to 50 µs a recipient that is seconds."""
SAMPLE_ROWS = 2_000
BUDGET_SECONDS = 30.0
_LEAD_IDS_SHOWN = 5
_REASONS_SHOWN = 5
_SCAN_ROWS = 8_192
_UNREADABLE = "attributes cannot be read (JSON)"


@dataclass(frozen=True, slots=True)
class ContentCheck:
    """What the check found.

    Attributes:
        rows: recipients of the audience. Of all of them it is known whether a required variable is missing.
        rendered_rows: of how many the message was rendered as well, or is known to be impossible.
        problem_rows: how many of those cannot be rendered.
        lacking_rows: how many of the whole audience lack a required variable.
        reasons: recipients by reason. One who lacks two variables counts for both.
        lead_ids: a few of them, by reason.
    """

    rows: int
    rendered_rows: int
    problem_rows: int
    lacking_rows: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    lead_ids: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every recipient was looked at."""
        return self.rendered_rows >= self.rows

    @property
    def problem_share(self) -> float:
        """The share of recipients that cannot be rendered; where it is not known, the larger of the shares seen."""
        return max(
            self.problem_rows / self.rendered_rows if self.rendered_rows else 0.0,
            self.lacking_rows / self.rows if self.rows else 0.0,
        )

    @property
    def expected_problem_rows(self) -> int:
        """How many of the whole audience that makes."""
        return self.problem_rows if self.is_complete else round(self.problem_share * self.rows)

    def problems(self) -> str:
        """The reasons, with how many recipients each concerns and a few lead ids."""
        worst = sorted(self.reasons, key=lambda reason: (-self.reasons[reason], reason))
        sentences = [
            f"{reason} for {_recipients(self.reasons[reason])} ({_leads(self.lead_ids[reason], self.reasons[reason])})"
            for reason in worst[:_REASONS_SHOWN]
        ]
        return "; ".join([*sentences, *(["…"] if len(worst) > _REASONS_SHOWN else [])])

    def __str__(self) -> str:
        if not self.rows:
            return "there is nobody to render a message for"
        looked = (
            f"all {_recipients(self.rows)} were looked at"
            if self.is_complete
            else f"a sample of {self.rendered_rows:,} of {_recipients(self.rows)} was looked at"
        )
        if not self.problem_rows and not self.lacking_rows:
            return f"{looked}: every message renders"
        return f"{looked}: {_recipients(self.problem_rows)} of them cannot be rendered: {self.problems()}"


def _recipients(count: int) -> str:
    return f"{count:,} {'recipient' if count == 1 else 'recipients'}"


def _leads(lead_ids: Sequence[int], count: int) -> str:
    return f"lead {', '.join(map(str, lead_ids))}{', …' if count > len(lead_ids) else ''}"


def check_against_manifest(
    store: ObjectStore,
    manifest: Manifest,
    compiled: CompiledContent,
    *,
    sample_rows: int = SAMPLE_ROWS,
    rendered_rows: int = RENDERED_ROWS,
    budget_seconds: float = BUDGET_SECONDS,
    apart: RenderingApart | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> ContentCheck:
    """Who of the manifest's recipients cannot be rendered.

    Reads the used columns of ``eligible.parquet`` once, in constant memory. Required variables are looked for in
    every row. Messages are rendered for every row of an audience of at most `rendered_rows` for as long as
    `budget_seconds` last; otherwise for a sample that is spread evenly and has the longest attributes of each batch.

    With `apart`, messages are rendered in its process, within its limits; otherwise in this one.

    Raises:
        InvalidTemplateError: the template itself is at fault: nobody that was looked at can be rendered, or rendering
            somebody took more than the limits.
    """
    with nullcontext() if apart is None else apart:
        found = _find(
            store,
            manifest,
            compiled,
            _Finder(manifest, compiled, apart),
            sample_rows,
            rendered_rows,
            budget_seconds,
            monotonic,
        )
    if found.rendered_rows and found.problem_rows == found.rendered_rows:
        first = next(iter(found.reasons))
        mend = ""
        if first.endswith(" is missing"):
            name = first.removesuffix(" is missing")
            mend = f". Give a default, as in {{{{ {name} | default('…') }}}}, "
            mend += f"or guard it with {{% if {name} is defined %}}"
        raise InvalidTemplateError(f"nobody can be sent this: {found}{mend}")
    return found


def _find(
    store: ObjectStore,
    manifest: Manifest,
    compiled: CompiledContent,
    finder: _Finder,
    sample_rows: int,
    rendered_rows: int,
    budget_seconds: float,
    monotonic: Callable[[], float],
) -> ContentCheck:
    step = 1 if manifest.eligible_rows <= rendered_rows else max(1, manifest.eligible_rows // max(1, sample_rows))
    sparse_step = max(1, manifest.eligible_rows // max(1, sample_rows))
    ends_at = monotonic() + budget_seconds
    columns = list(dict.fromkeys(["position", "lead_id", *compiled.used_columns]))
    with store.reader(eligible_key(manifest.prefix)) as reader:
        for batch in pq.ParquetFile(reader).iter_batches(batch_size=_SCAN_ROWS, columns=columns):
            if monotonic() < ends_at:
                finder.look_at(batch, step, lambda: monotonic() < ends_at)
            else:  # as much time again for the sample
                finder.look_at(batch, max(step, sparse_step), lambda: monotonic() < ends_at + budget_seconds)
    return finder.result()


class _Finder:
    """Counts problems, batch by batch."""

    def __init__(self, manifest: Manifest, compiled: CompiledContent, apart: RenderingApart | None) -> None:
        self._manifest, self._compiled, self._apart = manifest, compiled, apart
        self._links = SampleLinks()
        self._layout = None if apart is not None else Layout(compiled, manifest, self._links)
        self._paths = [(f"attributes.{key}", key.split(".")) for key in sorted(required_attributes(compiled))]
        self._rows = self._rendered_rows = self._problem_rows = self._lacking_rows = 0
        self._reasons: dict[str, int] = {}
        self._lead_ids: dict[str, list[int]] = {}

    def result(self) -> ContentCheck:
        return ContentCheck(
            self._rows, self._rendered_rows, self._problem_rows, self._lacking_rows, self._reasons, self._lead_ids
        )

    def look_at(self, batch: pa.RecordBatch, step: int, may_go_on: Callable[[], bool]) -> None:
        """Look for required variables in every row, and render those whose position is a multiple of the step."""
        lacking = self._lacking(batch)
        chosen = _every(batch, step)
        if step > 1 and "attributes" in self._compiled.used_columns and batch.num_rows:
            chosen[pc.index(lengths := pc.binary_length(batch.column("attributes")), pc.max(lengths)).as_py()] = True
        self._rows += batch.num_rows
        self._lacking_rows += len(lacking)
        # Of the rows that lack something only those of the sample count, so that shares stay those of the sample.
        known = sum(1 for row in lacking if chosen[row])
        self._rendered_rows += known
        self._problem_rows += known
        rows = batch.filter(pa.array([each and row not in lacking for row, each in enumerate(chosen)], pa.bool_()))
        for first in range(0, rows.num_rows, ROWS_AT_ONCE):
            if not may_go_on():
                return
            self._render(rows.slice(first, ROWS_AT_ONCE))

    def _render(self, rows: pa.RecordBatch) -> None:
        self._rendered_rows += rows.num_rows
        table = pa.Table.from_batches([rows])
        for lead_id, reason in zip(rows.column("lead_id").to_pylist(), self._reasons_of(table), strict=True):
            if reason is not None:
                self._problem_rows += 1
                self._note(reason, lead_id)

    def _reasons_of(self, rows: pa.Table) -> Sequence[str | None]:
        if self._apart is not None:
            return self._apart.problems(rows)
        rendered = render_rows(self._compiled, rows, self._manifest, self._links, self._layout)
        return [each.reason if isinstance(each, ContentProblem) else None for each in rendered.values]

    def _note(self, reason: str, lead_id: int) -> None:
        self._reasons[reason] = self._reasons.get(reason, 0) + 1
        lead_ids = self._lead_ids.setdefault(reason, [])
        if len(lead_ids) < _LEAD_IDS_SHOWN:
            lead_ids.append(lead_id)

    def _lacking(self, batch: pa.RecordBatch) -> set[int]:
        """The rows that lack a required variable; notes which."""
        lacking: set[int] = set()
        lead_ids = batch.column("lead_id")
        for name in self._compiled.required_columns:
            column = batch.column(name)
            if column.null_count:
                rows = pc.indices_nonzero(column.is_null()).to_pylist()
                lacking.update(rows)
                for row in rows:
                    self._note(missing(name), lead_ids[row].as_py())
        for row, document in enumerate(batch.column("attributes").to_pylist() if self._paths else ()):
            try:
                attributes = attributes_of(document)
            except ValueError:
                lacking.add(row)
                self._note(_UNREADABLE, lead_ids[row].as_py())
                continue
            for name, steps in self._paths:
                value = attributes
                for each in steps:
                    value = step_into(value, each)
                if value is None:
                    lacking.add(row)
                    self._note(missing(name), lead_ids[row].as_py())
        return lacking


def _every(batch: pa.RecordBatch, step: int) -> list[bool]:
    return [position % step == 0 for position in batch.column("position").to_pylist()]


class SampleLinks:
    """Links as long as the real ones, for a check that sends nothing."""

    def url(self, campaign_id: int, lead_id: int, sender_id: int) -> str:
        """The same for everybody."""
        return f"https://unsubscribe.example/{'0' * 60}"
