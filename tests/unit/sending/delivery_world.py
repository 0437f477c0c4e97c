"""The world in which deliveries are tried: a provider with faults, processes that die, are stopped or are slow.

Invariant: the provider's log is the truth; what the ledger and the staged objects say is compared with it.
"""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Literal, get_args
from uuid import UUID

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from email_platform.audience.freeze import read_chunk
from email_platform.domain.campaigns import Campaign, CampaignContent, CampaignStatus, OnUnknown, Sender
from email_platform.domain.identity import message_id
from email_platform.domain.manifest import ELIGIBLE_SCHEMA, Manifest
from email_platform.domain.message import Skeleton
from email_platform.domain.ports import BulkCall, EncodedCall, Fit, ProviderLimits, Recipient, RecipientResult
from email_platform.domain.storage_layout import eligible_key
from email_platform.errors import (
    AccountingError,
    AccountRefusedError,
    CallNotAcceptedError,
    CallOutcomeUnknownError,
    CallRejectedError,
    CallThrottledError,
    CampaignStoppedError,
    ChunkBusyError,
    LeaseLostError,
    ProviderDownError,
    TooManyRejectedError,
)
from email_platform.runs.finish import finish_sending
from email_platform.runs.parts import Parts
from email_platform.runs.stage import stage_chunk
from email_platform.runs.unknown import decide_unknown_calls, resolve_unknown_by_evidence
from email_platform.sending.call_writing import Mailing, RenderedCall
from email_platform.sending.chunk_delivery import ChunkDelivery
from email_platform.sending.ledger import UnknownDecision
from email_platform.sending.ledger_session import ChunkWork
from email_platform.sending.policy import DeliveryPolicy
from email_platform.sending.retry import RetryPolicy
from email_platform.sending.runtime import Runtime
from email_platform.staging.delivery_objects import delivery_table
from tests.fakes.call_ledger import InMemoryCallLedger
from tests.fakes.campaign_parts import InMemoryCampaigns, InMemoryRegister
from tests.fakes.stores import InMemoryManifestStore, InMemoryObjectStore

CAMPAIGN = 7
SKELETON = Skeleton(("s",), ("h",), ("t",), {}, 0)
ELIGIBLE, CHUNK_ROWS, CALL_ROWS, CONNECTIONS = 23, 12, 3, 3
LEASE_SECONDS = 20.0
SLOW_COMMIT_SECONDS = 25.0

Fault = Literal[
    "none",
    "throttled",
    "not_accepted",
    "rejected",
    "refused",
    "deferred",
    "lost_before",
    "lost_after",
    "short",
    "too_large",
    "bad_recipient",
    "entries_refused",
]
FAULTS: list[Fault] = [fault for fault in get_args(Fault) if fault != "short"]
Trouble = Literal["calls", "entries"]
BAD_ADDRESSES = {4, 5, 13}  # refused whenever they are tried
STUBBORN = {7, 16}  # deferred whenever they are tried, in worlds with stubborn recipients
TRIES = 3


def is_required(one: Field[Any]) -> bool:
    """Whether a dataclass's field has no value of its own."""
    return one.default is MISSING and one.default_factory is MISSING


class ProcessDiedError(BaseException):
    """The simulated kill -9: nothing of this process runs any more."""


@dataclass
class Time:
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def clock(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.now.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=max(seconds, 0.001))
        await asyncio.sleep(0)


@dataclass
class ProviderLog:
    """The provider's own truth: every acceptance by lead, and the answers it remembers by key."""

    honours_keys: bool
    defers_always: frozenset[int] = frozenset()
    accepted: Counter[int] = field(default_factory=Counter)
    answers: dict[UUID, tuple[bytes, tuple[RecipientResult, ...]]] = field(default_factory=dict)

    def take(self, call: EncodedCall, deferred: Callable[[int], bool], bad: Set[int]) -> tuple[RecipientResult, ...]:
        if self.honours_keys and call.call_id in self.answers:
            body, answer = self.answers[call.call_id]
            assert body == call.body, "a key was used again with other bytes"
            return answer
        answer = tuple(self._result(lead, deferred(lead), lead in bad) for lead in orjson.loads(call.body))
        self.answers[call.call_id] = (call.body, answer)
        return answer

    def _result(self, lead: int, deferred: bool, bad: bool) -> RecipientResult:
        if deferred or lead in self.defers_always:
            return RecipientResult("deferred", "", "TRANSIENT_FAILURE", "not now", throttled=deferred)
        if bad:
            return RecipientResult("rejected", "", "Bad", "bad address")
        self.accepted[lead] += 1
        return RecipientResult("accepted", f"p-{lead}")


@dataclass
class Process:
    """Counts this process's operations and kills or stops it at one of them.

    Attributes:
        slow_commits: which of its turns, counted from 1, take longer than the lease.
        slow_before: the ledger waits first and commits then (somebody had its row locked), or the answer comes late.
    """

    die_at: int | None = None
    stop_at: int | None = None
    slow_commits: frozenset[int] = frozenset()
    slow_before: bool = False
    time: Time = field(default_factory=Time)
    turns: int = 0
    resume: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    operations: int = 0
    dead: bool = False

    def step(self) -> None:
        if self.dead:
            raise ProcessDiedError
        self.operations += 1
        if self.operations == self.die_at:
            self.dead = True
            raise ProcessDiedError

    async def blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.step()
        await self.be_stopped()
        self.turns += function.__name__.endswith("turn")
        is_slow = function.__name__.endswith("turn") and self.turns in self.slow_commits
        if is_slow and self.slow_before:
            await self.time.sleep(SLOW_COMMIT_SECONDS)
        result = function(*arguments)
        if is_slow and not self.slow_before:
            await self.time.sleep(SLOW_COMMIT_SECONDS)
        self.step()
        await self.be_stopped()
        return result

    async def be_stopped(self) -> None:
        if self.operations == self.stop_at:
            self.stopped.set()
            await self.resume.wait()


class FaultyProvider:
    name = "fake"

    def __init__(self, world: World, process: Process, faults: list[Fault]) -> None:
        self._world, self._log, self._process, self._faults = world, world.log, process, faults

    @property
    def limits(self) -> ProviderLimits:
        return ProviderLimits(self._world.call_rows, self._log.honours_keys, 86_400 if self._log.honours_keys else 0)

    def fit(self, call: BulkCall) -> Fit:
        leads = [one.lead_id for one in call.recipients]
        rows = next((nth for nth, lead in enumerate(leads) if lead in self._world.misfits), len(leads))
        rows = min(rows, self._world.call_rows)
        return Fit(rows, None if rows else "a value is too large")

    def encode(self, call: BulkCall) -> EncodedCall:
        return EncodedCall(call.call_id, orjson.dumps([one.lead_id for one in call.recipients]), len(call.recipients))

    async def send(self, call: EncodedCall) -> tuple[RecipientResult, ...]:
        world = self._world
        self._process.step()
        fault = self._faults.pop(0) if self._faults else "none"
        await asyncio.sleep(0)
        leads: list[int] = orjson.loads(call.body)
        world.calls_made.append(tuple(leads))
        if fault in ("lost_before", "lost_after", "short"):
            world.once_unknown |= set(leads)
        match fault:
            case "throttled":
                raise CallThrottledError("slow down", 1.5)
            case "not_accepted":
                raise CallNotAcceptedError("503")
            case "rejected":
                raise self._refusal(leads, "unlisted")
            case "bad_recipient":
                raise self._refusal(leads, "recipient")
            case "refused":
                raise AccountRefusedError("suspended")
            case "lost_before":
                raise CallOutcomeUnknownError("reset")
        if fault == "too_large" or len(leads) > world.largest_call:
            raise self._refusal(leads, "size")
        if world.trouble == "calls":
            raise self._refusal(leads, "unlisted")
        if world.trouble == "entries" or fault == "entries_refused":
            return tuple(
                RecipientResult("deferred", "", "SenderPaused", "the sender is paused", account_refused=True)
                for _ in leads
            )
        if world.poison & set(leads):
            raise self._refusal(leads, world.poison_blame)
        answer = self._log.take(call, lambda lead: fault == "deferred" and lead % 2 == 1, world.bad_addresses)
        self._process.step()
        await asyncio.sleep(0)
        if fault == "lost_after":
            raise CallOutcomeUnknownError("read timeout")
        if fault == "short":
            return answer[:-1]
        return answer

    def _refusal(self, leads: list[int], blame: Literal["recipient", "size", "unlisted"]) -> CallRejectedError:
        world = self._world
        if len(leads) == 1:
            world.refused_alone[leads[0]] += 1 if blame == "unlisted" else 2
        world.refused_after_unknown |= set(leads) & world.once_unknown
        return CallRejectedError("bad request", "400", blame)

    async def aclose(self) -> None:
        return None


def manifest_of(on_unknown: OnUnknown, eligible: int, chunk_rows: int, call_rows: int) -> Manifest:
    return Manifest(
        campaign_id=CAMPAIGN,
        manifest_id=UUID(int=1),
        prefix="manifests/campaign=7/1",
        eligible_rows=eligible,
        excluded_by_reason={},
        chunk_rows=chunk_rows,
        call_rows=call_rows,
        sender=Sender(1, 1, "from@example.com", "From", None, "fake", "default"),
        content=CampaignContent("s", "h", "t"),
        on_unknown=on_unknown,
        frozen_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def campaign_of(manifest: Manifest) -> Campaign:
    return Campaign(
        campaign_id=CAMPAIGN,
        owner_id=1,
        name="Schedules",
        sender=manifest.sender,
        content=manifest.content,
        condition={"all": []},
        status=CampaignStatus.SENDING,
        status_reason=None,
        scheduled_at=None,
        attempt=1,
        on_unknown=manifest.on_unknown,
    )


def eligible_object(manifest: Manifest) -> bytes:
    """The manifest's eligible leads as freezing writes them: one row group a chunk."""
    rows = [
        {"position": lead, "lead_id": lead, "email": f"{lead}@example.com", "attributes": "{}"}
        for lead in range(manifest.eligible_rows)
    ]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=ELIGIBLE_SCHEMA), file, row_group_size=manifest.chunk_rows)
    return file.getvalue()


class Mortal:
    """A part whose every operation may be the process's last, before it happens or after."""

    def __init__(self, target: Any, process: Process) -> None:
        self._target, self._process = target, process

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value):
            return value

        def operation(*arguments: Any, **options: Any) -> Any:
            self._process.step()
            result = value(*arguments, **options)
            self._process.step()
            return result

        return operation


class World:
    """One campaign, its ledger, the provider's log, and processes that come and go."""

    def __init__(
        self,
        honours_keys: bool,
        on_unknown: OnUnknown,
        stubborn: bool = False,
        *,
        eligible: int = ELIGIBLE,
        chunk_rows: int = CHUNK_ROWS,
        call_rows: int = CALL_ROWS,
    ) -> None:
        self.time = Time()
        self.queued_at: datetime | None = None
        self.manifest = manifest_of(on_unknown, eligible, chunk_rows, call_rows)
        self.ledger = InMemoryCallLedger(
            self.time.clock,
            LEASE_SECONDS,
            lambda _: self.status,
            lambda _: self._queue_again(),
            lambda _: self.queued_at,
        )
        self.ledger.add_chunks(CAMPAIGN, self.manifest.chunk_count)
        self.campaigns = InMemoryCampaigns(campaign_of(self.manifest), self._chunks_unfinished)
        self.manifests = InMemoryManifestStore()
        self.manifests.freeze(self.manifest)
        self.store = InMemoryObjectStore()
        self.store.put(eligible_key(self.manifest.prefix), eligible_object(self.manifest))
        self.register = InMemoryRegister()
        self.log = ProviderLog(honours_keys, frozenset(STUBBORN if stubborn else ()))
        self.suppressed: set[int] = set()
        self.unrenderable: set[int] = set()  # leads for whom there is no message
        self.bad_addresses = BAD_ADDRESSES
        self.misfits: set[int] = set()  # leads whose message fits no call
        self.call_rows = call_rows  # the provider's limit, as it is now
        self.largest_call = self.manifest.eligible_rows  # recipients of a call that the provider finds small enough
        self.trouble: Trouble | None = None  # the sender is refused, call by call or entry by entry
        self.poison: set[int] = set()  # leads for whose sake a whole call is refused
        self.poison_blame: Literal["recipient", "unlisted"] = "recipient"
        self.refused_alone: Counter[int] = Counter()
        self.refused_after_unknown: set[int] = set()
        self.calls_made: list[tuple[int, ...]] = []
        self.never_to_be_mailed: set[int] = set()
        self.once_unknown: set[int] = set()  # recipients of calls that had an attempt without an answer
        self.decided: set[int] = set()  # by an operator: resent, or abandoned
        self.holders = 0

    @property
    def status(self) -> str:
        """The campaign's status."""
        return self.campaigns.get(CAMPAIGN).status.value

    @status.setter
    def status(self, status: str) -> None:
        campaign = self.campaigns.get(CAMPAIGN)
        self.campaigns.campaign = replace(campaign, status=CampaignStatus(status))

    def _queue_again(self) -> None:
        if self.status == "sent":
            self.campaigns.change_status(CAMPAIGN, CampaignStatus.QUEUED, "to resend unknown calls")

    def _chunks_unfinished(self) -> int:
        totals = self.ledger.totals(CAMPAIGN)
        return totals.chunks - totals.chunks_finished

    def parts(self, process: Process, *, whole_calls: bool = False) -> Parts:
        """What a run's step needs, each operation of which may be the process's last."""
        outside: dict[str, Any] = dict.fromkeys((one.name for one in fields(Parts) if is_required(one)), None)
        outside |= {
            "campaigns": Mortal(self.campaigns, process),
            "manifests": Mortal(self.manifests, process),
            "ledger": Mortal(self.ledger, process),
            "store": self.store,
            "register": Mortal(self.register, process),
            "clock": self.time.clock,
            "limits": lambda _: ProviderLimits(CALL_ROWS, False, 0, accepts_whole_calls=whole_calls),
        }
        return Parts(**outside)

    def stage(self, chunk_index: int, process: Process) -> None:
        """What `send_chunk` does whatever ended the sending."""
        recipients = read_chunk(self.store, self.manifest, chunk_index)
        stage_chunk(self.parts(process), self.manifest, chunk_index, recipients)

    def finish(self, process: Process) -> None:
        """What the last step of a run does, if it can."""
        with suppress(AccountingError, CampaignStoppedError, ProcessDiedError):
            finish_sending(self.parts(process), CAMPAIGN)

    def suppress(self, lead: int) -> None:
        """From now on; whose call has an intent already may get its repeat, which must have the same bytes."""
        self.suppressed.add(lead)
        chunk_index, offset = divmod(lead, self.manifest.chunk_rows)
        records = [
            record
            for record in self.ledger.calls(CAMPAIGN, chunk_index)
            if offset in record.offsets_in_chunk(chunk_index * self.manifest.chunk_rows)
        ]
        if not records or (records[-1].state == "planned" and not records[-1].after_unknown):
            self.never_to_be_mailed.add(lead)

    def delivery(self, chunk_index: int, process: Process, faults: list[Fault]) -> ChunkDelivery:
        self.holders += 1
        first = chunk_index * self.manifest.chunk_rows

        def render(call_id: UUID, offsets: Sequence[int]) -> RenderedCall:
            leads = {offset: first + offset for offset in offsets if first + offset not in self.unrenderable}
            recipients = tuple(
                Recipient(lead, str(message_id(CAMPAIGN, lead)), f"{lead}@example.com", ()) for lead in leads.values()
            )
            call = BulkCall(call_id, CAMPAIGN, "f@e.com", "F", None, SKELETON, recipients, {})
            return RenderedCall(call, {offset: "it cannot be" for offset in offsets if offset not in leads})

        return ChunkDelivery(
            ChunkWork(self.manifest, chunk_index, holder=f"process-{self.holders}"),
            self.ledger,
            Mailing(
                FaultyProvider(self, process, faults),
                render,
                lambda offsets: {o: "complaint" for o in offsets if first + o in self.suppressed},
            ),
            DeliveryPolicy(
                connections=CONNECTIONS,
                lease_seconds=LEASE_SECONDS,
                lease_wait_seconds=LEASE_SECONDS * 3,
                retry=RetryPolicy(attempts=4, base_seconds=0.1, ceiling_seconds=1.0),
                deferral=RetryPolicy(attempts=TRIES, base_seconds=0.1, ceiling_seconds=1.0),
            ),
            runtime=Runtime(self.time.clock, self.time.monotonic, self.time.sleep, Random(1), process.blocking),
        )

    async def run(self, chunk_index: int, process: Process, faults: list[Fault]) -> str:
        self.note_unknown()
        process.time = self.time
        delivery = self.delivery(chunk_index, process, faults)
        end = "finished"
        try:
            await delivery.run()
        except ProcessDiedError:
            return "died"
        except (CampaignStoppedError, LeaseLostError, ChunkBusyError, ProviderDownError, AccountRefusedError) as error:
            end = type(error).__name__
        except TooManyRejectedError as error:
            end = type(error).__name__
        finally:
            await asyncio.gather(*delivery._in_flight, return_exceptions=True)
        with suppress(ProcessDiedError):
            self.stage(chunk_index, process)
        return end

    def note_unknown(self) -> set[int]:
        """Remember whose calls have no answer now: a process died at them, or is stopped."""
        found = {
            chunk_index * self.manifest.chunk_rows + offset
            for chunk_index in range(self.manifest.chunk_count)
            for record in self.ledger.calls(CAMPAIGN, chunk_index)
            if record.state in ("intent", "unknown")
            for offset in record.offsets_in_chunk(chunk_index * self.manifest.chunk_rows)
        }
        self.once_unknown |= found
        return found

    def decide(self, decision: UnknownDecision, chunk_index: int | None, process: Process | None = None) -> None:
        self.decided |= self.note_unknown()
        with suppress(ProcessDiedError):
            decide_unknown_calls(self.parts(process or Process()), CAMPAIGN, decision, chunk_index)

    def may_be_mailed_twice(self, lead: int) -> bool:
        """Only after an unknown outcome, by the policy resend without keys or by an operator's decision."""
        if lead not in self.once_unknown:
            return False
        return lead in self.decided or (self.manifest.on_unknown == "resend" and not self.log.honours_keys)

    def check_nobody_is_mailed_twice(self) -> None:
        twice = [lead for lead, times in self.log.accepted.items() if times > 1 and not self.may_be_mailed_twice(lead)]
        assert not twice, f"mailed twice: {twice}"

    def prove(self, leads: set[int], whole_calls: bool, process: Process | None = None) -> None:
        """Events about messages that the provider accepted come in."""
        evidence = {message_id(CAMPAIGN, lead): f"e-{lead}" for lead in leads & set(self.log.accepted)}
        with suppress(ProcessDiedError):
            resolve_unknown_by_evidence(self.parts(process or Process(), whole_calls=whole_calls), CAMPAIGN, evidence)
        if process is None:
            applied = resolve_unknown_by_evidence(self.parts(Process(), whole_calls=whole_calls), CAMPAIGN, evidence)
            assert applied.recipients_proved == 0, "a proof counts once"

    def recover(self, judging: Process | None = None) -> None:
        """What the reaper and an operator do: mend the sender, run every chunk until it is finished, then judge.

        An address that a provider refuses without naming whose fault it is looks like a refused sender where it is all
        that is left: the campaign pauses, and the operator suppresses it.
        """
        if self.status == "sent":
            return
        self.status, self.trouble = "sending", None
        self.queued_at = self.time.clock()
        for chunk_index in range(self.manifest.chunk_count):
            end = asyncio.run(self.run(chunk_index, Process(), []))
            refused = ("AccountRefusedError", "OneRecipientRefusedError")
            if end in refused and self.poison_blame == "unlisted":
                for lead in self.poison:
                    self.suppress(lead)
                end = asyncio.run(self.run(chunk_index, Process(), []))
            assert end == "finished"
        self.finish(judging or Process())

    def check(self) -> None:
        totals = self.ledger.totals(CAMPAIGN)
        assert totals.accepted + totals.rejected + totals.unknown + totals.abandoned == self.manifest.eligible_rows
        assert totals.planned == totals.in_call == 0
        assert totals.chunks_finished == self.manifest.chunk_count
        outcomes: dict[int, str] = {}
        tries: Counter[int] = Counter()
        given_up: dict[int, str] = {}
        for chunk_index in range(self.manifest.chunk_count):
            first = chunk_index * self.manifest.chunk_rows
            for record in self.ledger.calls(CAMPAIGN, chunk_index):
                for nth, offset in enumerate(record.offsets_in_chunk(first)):
                    lead = first + offset
                    assert outcomes.get(lead, "deferred") == "deferred", "sent again after an answer"
                    status = record.receipt.results[nth].status if record.receipt else record.state
                    tries[lead] += status == "deferred" and not record.receipt.results[nth].account_refused
                    outcomes[lead] = record.state if status == "unknown" else status
                    given_up[lead] = "unknown" if record.after_unknown else "rejected"
        assert set(outcomes) == set(range(self.manifest.eligible_rows))
        assert max(tries.values(), default=0) <= TRIES + 1  # an operator's decision to resend counts as one
        outcomes = {lead: given_up[lead] if status == "deferred" else status for lead, status in outcomes.items()}
        accepted_in_ledger = {lead for lead, status in outcomes.items() if status == "accepted"}
        unknown = {lead for lead, status in outcomes.items() if status == "unknown"}
        abandoned = {lead for lead, status in outcomes.items() if status == "abandoned"}
        self.check_nobody_is_mailed_twice()
        assert not self.never_to_be_mailed & set(self.log.accepted), "somebody was mailed after their suppression"
        assert all(outcomes[lead] == "rejected" for lead in self.never_to_be_mailed)
        assert accepted_in_ledger <= set(self.log.accepted), "the ledger claims what the provider never accepted"
        assert set(self.log.accepted) - accepted_in_ledger <= unknown | abandoned, "an acceptance is missing"
        assert unknown <= self.once_unknown
        assert abandoned <= self.decided
        assert Counter(outcomes.values()) == +Counter(
            accepted=totals.accepted, rejected=totals.rejected, unknown=totals.unknown, abandoned=totals.abandoned
        )
        if self.log.honours_keys:
            assert unknown <= self.decided | self.refused_after_unknown
        rejected = {lead for lead, status in outcomes.items() if status == "rejected"}
        own_fault = (
            BAD_ADDRESSES
            | self.bad_addresses
            | self.suppressed
            | self.unrenderable
            | self.misfits
            | set(self.log.defers_always)
        )
        own_fault |= {lead for lead, times in self.refused_alone.items() if times >= 2}
        own_fault |= {lead for lead, often in tries.items() if often >= TRIES}
        assert rejected <= own_fault, f"used up by a refusal that was not theirs: {rejected - own_fault}"
        self.check_staged(outcomes)

    def check_staged(self, outcomes: dict[int, str]) -> None:
        rows = [row for chunk_index in range(self.manifest.chunk_count) for row in self.staged_rows(chunk_index)]
        assert [row["lead_id"] for row in rows] == list(range(self.manifest.eligible_rows))
        assert {row["lead_id"]: row["status"] for row in rows} == outcomes
        objects = [pq.read_table(io.BytesIO(self.store.get(key))) for key in sorted(self.register.objects)]
        staged = {row["lead_id"]: row["status"] for table in objects for row in table.to_pylist()}
        assert staged == outcomes, "what was staged last is not what the ledger knows"

    def staged_rows(self, chunk_index: int, *, finished: bool = True) -> list[dict[str, Any]]:
        recipients = read_chunk(self.store, self.manifest, chunk_index)
        records = self.ledger.calls(CAMPAIGN, chunk_index)
        return delivery_table(self.manifest, chunk_index, recipients, records, finished=finished).to_pylist()
