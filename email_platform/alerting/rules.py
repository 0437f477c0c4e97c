"""What is worth an operator's attention, by kind: pure functions from what was found to `Condition`s.

Invariant: every kind says what happened, what it means for recipients, and one command. docs/runbook.md has a section
for each, which a test compares with `KINDS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import get_args

from email_platform.alerting.condition import Condition, Kind

KINDS: tuple[Kind, ...] = get_args(Kind)
OPERATORS_REASON = "by an operator"
"""How the reason of a pause begins that somebody asked for: nobody is called for what an operator did himself."""
DEAD_AFTER_SECONDS = 180.0
"""A host of the watch looks once a minute; three looks missed are no accident."""
RETIRED_AFTER_SECONDS = 7 * 86_400.0
"""A host that has been silent for so long was taken away, and nobody waits for it."""
NOTICE_SECONDS = 86_400.0
CAMPAIGNS_OF_A_KIND = 20
"""So many campaigns ring for one kind at a time; the others do as these are mended."""

_CREDENTIAL_WORDS = re.compile(
    r"(?i)\b(401|403)\b|credential|api[ _-]?key|access[ _-]?key|\btoken|signature|unauthori[sz]ed|authenticat"
    r"|InvalidClientTokenId|\bAccessDenied|\bforbidden\b|certificate"
)


def operators_reason(words: str | None) -> str:
    """The reason of a pause that somebody asked for, in these words, so that nobody is called for it."""
    if not words or words.startswith(OPERATORS_REASON):
        return words or OPERATORS_REASON
    return f"{OPERATORS_REASON}: {words}"


@dataclass(frozen=True, slots=True)
class StoppedCampaign:
    """A campaign that is paused or failed, and not by an operator or the guard."""

    campaign_id: int
    name: str
    status: str
    reason: str
    attempt: int


@dataclass(frozen=True, slots=True)
class GuardedCampaign:
    """A campaign that passed a limit of bounces or complaints: paused for it, or already sent."""

    campaign_id: int
    status: str
    happened: str
    occasion: str
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UnknownCalls:
    """Calls of one campaign whose outcome nobody knows, for longer than events usually take."""

    campaign_id: int
    calls: int
    recipients: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What PostgreSQL knows at one moment; every count is of what is *late* (`Limits.late_seconds`).

    Attributes:
        silent: sending campaigns without a sign of life.
        queued: campaigns that are due and have no run.
        has_moved: whether any campaign has begun, gone on or ended within that time.
        unloaded: staged objects that the warehouse does not have.
        quarantined: staged objects that were set aside.
        beats: when each host of the watch looked last.
    """

    stopped: Sequence[StoppedCampaign] = ()
    guarded: Sequence[GuardedCampaign] = ()
    unknown: Sequence[UnknownCalls] = ()
    silent: Sequence[int] = ()
    queued: int = 0
    has_moved: bool = True
    unloaded: int = 0
    quarantined: int = 0
    beats: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """From when on something is late.

    Attributes:
        late_seconds: of queue, loads, events, reports and unknown calls.
    """

    late_seconds: float = 900.0

    @property
    def minutes(self) -> str:
        """In words."""
        return f"{self.late_seconds / 60:.0f} minutes"


def conditions_of_backlog(found: Backlog, limits: Limits, now: datetime) -> list[Condition]:
    """Everything that PostgreSQL shows to be wrong."""
    return [
        *(_stopped(one) for one in found.stopped),
        *(feedback_condition(one) for one in found.guarded),
        *(_unknown(one, limits) for one in found.unknown),
        *(_silent(one, limits) for one in found.silent),
        *_queue(found, limits),
        *_loads(found, limits),
        *_dead_hosts(found.beats, now),
    ]


BACKLOG_KINDS: frozenset[Kind] = frozenset[Kind](
    (
        *("campaign_paused", "campaign_failed", "account_refused", "campaign_feedback", "campaign_silent"),
        "unknown_calls",
        *("queue_stuck", "loads_late", "object_quarantined", "dagster_dead", "receiver_dead"),
    )
)


def _stopped(one: StoppedCampaign) -> Condition:
    subject, occasion = f"campaign {one.campaign_id}", str(one.attempt)
    happened = f"campaign {one.campaign_id} {one.name!r} is {one.status}: {one.reason or 'no reason was given'}"
    if one.status == "failed":
        return Condition(
            "campaign_failed",
            subject,
            happened,
            "Nobody is mailed until it is mended and queued again; who was mailed before is not mailed twice.",
            f"email-platform campaign show {one.campaign_id}",
            occasion,
        )
    if is_refusal_of_credential(one.reason):
        return Condition(
            "account_refused",
            subject,
            happened,
            "Its remaining recipients wait, as will other campaigns of this account; nobody is used up by the refusal.",
            f"mend the account's variables, then: email-platform campaign resume {one.campaign_id}",
            occasion,
        )
    return Condition(
        "campaign_paused",
        subject,
        happened,
        "Recipients who were not mailed yet wait, and none of them is lost; who was mailed is not mailed twice.",
        f"email-platform campaign resume {one.campaign_id}",
        occasion,
    )


def is_refusal_of_credential(reason: str) -> bool:
    """Whether a reason speaks of a key, a right or a certificate. By its words: providers have no common code for it.

    A wrong guess costs a heading: the reason itself is in the text in any case.
    """
    return _CREDENTIAL_WORDS.search(reason) is not None


def feedback_condition(one: GuardedCampaign) -> Condition:
    """The guard's verdict (`email_platform.runs.guard`) on one campaign."""
    return Condition(
        "campaign_feedback",
        f"campaign {one.campaign_id}",
        one.happened,
        "Recipients do not want this mail or cannot get it; mailbox providers may block the sender for everybody.",
        f"email-platform campaign {'resume' if one.status == 'paused' else 'show'} {one.campaign_id}",
        one.occasion,
        {"campaign_id": one.campaign_id, **one.counts},
    )


def notice_condition(text: str) -> Condition:
    """Something that a provider says of an account; it is over a day after it was last seen."""
    return Condition(
        "provider_notice",
        sha256(text.encode()).hexdigest()[:16],
        text,
        "Mail of this account may be delayed or refused soon.",
        "email-platform sender list",
    )


def _unknown(one: UnknownCalls, limits: Limits) -> Condition:
    return Condition(
        "unknown_calls",
        f"campaign {one.campaign_id}",
        f"campaign {one.campaign_id}: {one.calls:,} calls have had no answer for more than {limits.minutes}",
        f"{one.recipients:,} recipients got the message or did not. They are not mailed again until events or you "
        "decide.",
        f"email-platform campaign unknown {one.campaign_id}",
    )


def _silent(campaign_id: int, limits: Limits) -> Condition:
    return Condition(
        "campaign_silent",
        f"campaign {campaign_id}",
        f"campaign {campaign_id} is sending, and has shown no sign of life for {limits.minutes}",
        "Its remaining recipients wait; a new attempt mails nobody twice.",
        f"email-platform campaign show {campaign_id}",
    )


def _queue(found: Backlog, limits: Limits) -> list[Condition]:
    if not found.queued or found.has_moved:
        return []
    return [
        Condition(
            "queue_stuck",
            "queue",
            f"no campaign has begun, gone on or ended for {limits.minutes}, and {found.queued:,} are due",
            "Nobody of these campaigns is mailed; nothing is lost, and they begin when the queue moves.",
            "email-platform status",
        )
    ]


def _loads(found: Backlog, limits: Limits) -> list[Condition]:
    conditions = []
    if found.unloaded:
        conditions.append(
            Condition(
                "loads_late",
                "loads",
                f"staged objects have waited for the warehouse for more than {limits.minutes}",
                "Sending goes on. Reports, and the guard against bounces and complaints, do not see the newest mail.",
                "email-platform doctor",
            )
        )
    if found.quarantined:
        conditions.append(
            Condition(
                "object_quarantined",
                "quarantine",
                "staged objects were set aside: the warehouse cannot read them, or their counts are wrong",
                "Nobody is mailed twice or left out; the reports lack these rows until the objects are mended.",
                "dagster job launch -w workspace.yaml -j rebuild_warehouse_job",
            )
        )
    return conditions


_HOSTS: Mapping[str, tuple[Kind, str, str]] = {
    "dagster": (
        "dagster_dead",
        "Dagster's daemon has evaluated no alerts",
        "No campaign starts, no event is loaded and no report is refreshed; opt-outs are still taken.",
    ),
    "receiver": (
        "receiver_dead",
        "no receiver has looked for alerts",
        "Opt-outs and providers' events may be refused: providers try again for a time, recipients see an error.",
    ),
}


def _dead_hosts(beats: Mapping[str, datetime], now: datetime) -> list[Condition]:
    conditions = []
    for host, (kind, what, meaning) in _HOSTS.items():
        silent = now - beats.get(host, now)
        if timedelta(seconds=DEAD_AFTER_SECONDS) < silent < timedelta(seconds=RETIRED_AFTER_SECONDS):
            happened = f"{what} since {beats[host]:%Y-%m-%d %H:%M:%S} UTC"
            conditions.append(Condition(kind, host, happened, meaning, "email-platform status"))
    return conditions


def events_condition(first_at: datetime | None, limits: Limits, now: datetime) -> list[Condition]:
    """Whether events have waited in the receivers' inbox for too long.

    Args:
        first_at: when the oldest object in the inbox was written; None where it is empty.
        limits: from when on they are late.
        now: the present time.
    """
    if first_at is None or (now - first_at).total_seconds() <= limits.late_seconds:
        return []
    return [
        Condition(
            "events_late",
            "events",
            f"events have waited in the inbox for more than {limits.minutes}",
            "Opt-outs, bounces and complaints in them do not count yet: people who opted out may be mailed.",
            "dagster job launch -w workspace.yaml -j load_events_job",
        )
    ]


def part_condition(part: str, problem: str, *, refused: bool) -> Condition:
    """A part of the outside world that cannot be worked with: it refuses us, or it does not answer."""
    if refused:
        return Condition(
            "credential_refused",
            part,
            f"{part} refuses us: {problem}",
            "What needs it stands still until that is mended; nobody is used up, and nothing is lost.",
            "email-platform doctor",
        )
    return Condition(
        "part_away",
        part,
        f"{part} is away: {problem}",
        "What needs it waits and is done when it is back; nothing is lost.",
        "email-platform doctor",
    )


def reports_condition(oldest_change_at: datetime | None, limits: Limits, now: datetime) -> list[Condition]:
    """Whether the reports lack a change for too long.

    Args:
        oldest_change_at: the first change after the newest refresh that succeeded; None where they show everything.
        limits: from when on they are late.
        now: the present time.
    """
    if oldest_change_at is None or (now - oldest_change_at).total_seconds() <= limits.late_seconds:
        return []
    return [
        Condition(
            "reports_late",
            "reports",
            f"the reports have not shown what was loaded for more than {limits.minutes}",
            "Nobody is mailed otherwise than he should be; who reads the reports sees older numbers.",
            "dagster job launch -w workspace.yaml -j reports_job",
        )
    ]


def run_condition(job: str, run_id: str, about: str = "") -> Condition:
    """The runs of a job, or of a campaign at work, fail.

    Args:
        job: which job.
        run_id: the newest run that failed.
        about: ``campaign 17``; empty for a job of all campaigns.
    """
    return Condition(
        "run_failed",
        about or job,
        f"{job}{f' for {about}' if about else ''} failed and has not succeeded since; look at run {run_id} in Dagster",
        "What the run should have done waits; it can be run again, and mails nobody twice.",
        f"email-platform {about.replace('campaign', 'campaign show')}"
        if about
        else f"dagster job launch -w workspace.yaml -j {job}",
    )


def check_condition(asset: str, check: str) -> Condition:
    """The newest result of an asset check is a failure."""
    return Condition(
        "check_failed",
        f"{asset} {check}",
        f"the check {check!r} of {asset} failed",
        "Counts that must agree do not, or data is not as it must be: reports may be wrong; sending is not held up.",
        "email-platform doctor",
    )
