"""What ended a step, for the operator who reads it first: what happened, what it means for recipients, and the cure.

Invariant: every error of the platform has a meaning and a command here, the nearest ancestor's where it has none of its
own; a test goes through the tree. The words are those of docs/runbook.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from email_platform import errors
from email_platform.domain.campaigns import Campaign, CampaignStatus

_NOBODY_LOST = "Recipients who were not mailed yet wait. Nobody is lost, nobody is mailed twice."
_PAUSED = f"The campaign is paused. {_NOBODY_LOST}"
_FAILED = "The campaign has failed: nobody is mailed until it is mended. Who was mailed before is not mailed twice."
_SHOW = "email-platform campaign show {campaign}"
_RESUME = "email-platform campaign resume {campaign}"
_COPY = "email-platform campaign clone {campaign}, then edit and queue the copy, which goes to its whole audience"

_WORDS: dict[type[Exception], tuple[str, str]] = {
    Exception: (
        "This is a fault of the platform, or of its database; the trace is below. Another run mails nobody twice.",
        "email-platform doctor, then launch the run again",
    ),
    errors.EmailPlatformError: ("The run's work waits. Another run mails nobody twice.", "email-platform doctor"),
    errors.ConfigurationError: (
        "A setting is missing or wrong, and waiting does not help. Another run mails nobody twice.",
        f"set it and restart the processes; {_SHOW} says whether to resume or to queue a campaign",
    ),
    errors.PartUnavailableError: (
        f"A part does not answer. {_NOBODY_LOST}",
        "email-platform doctor; a campaign goes on by itself when the part is back",
    ),
    errors.InvalidConditionError: (_FAILED, _COPY),
    errors.InvalidTemplateError: (_FAILED, _COPY),
    errors.ContentHeldError: (_PAUSED, f"mend the template or the leads, then {_RESUME}"),
    errors.CampaignNotFoundError: (
        "No further call is made. Ledger, objects and warehouse keep what was sent.",
        "nothing to do, unless somebody deleted the campaign's row by mistake",
    ),
    errors.CampaignStoppedError: (f"No further call is made. {_NOBODY_LOST}", _SHOW),
    errors.CampaignArchivedError: (
        "Its calls were all made long ago, and none is made again.",
        "email-platform retention restore {campaign}",
    ),
    errors.TooManyRejectedError: (_PAUSED, f"look at the refusals, mend what they say, then {_RESUME}"),
    errors.AccountRefusedError: (
        f"{_PAUSED} The refusal is booked on nobody; other campaigns of this account will stop as well.",
        f"mend the account's variables or the sender, restart, then {_RESUME}",
    ),
    errors.ProviderDownError: (_PAUSED, f"mend what the provider's answer says, or wait, then {_RESUME}"),
    errors.LeaseLostError: ("Another process sends this chunk now, and this one has stopped.", "nothing to do"),
    errors.ChunkBusyError: ("Another process sends this chunk now.", "nothing to do"),
    errors.SendingInterruptedError: (
        f"The run was asked to end; the calls in flight have their answers on record. {_NOBODY_LOST}",
        f"a campaign that is still sending goes on by itself in a new run; {_SHOW}",
    ),
    errors.AccountingError: ("Counts that must agree do not, so nothing is called done.", _SHOW),
    errors.ObjectQuarantinedError: (
        "The reports lack the object's rows. Nobody is mailed twice or left out.",
        "dagster job launch -w workspace.yaml -j rebuild_warehouse_job, when the object is mended",
    ),
    errors.LegacySourceError: (
        "Nothing of this month was called imported; sending does not read the old table.",
        "mend what the message names, then launch the month again",
    ),
}


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a step, or the whole run, ended.

    Attributes:
        happened: one sentence, with the campaign's number where it is about one.
        meaning: what that means for recipients.
        cure: the command that mends it, or shows how.
    """

    happened: str
    meaning: str
    cure: str

    def __str__(self) -> str:
        return f"{self.happened}\n{self.meaning}\nDo: {self.cure}"


def ending_of(error: BaseException, campaign_id: int | None = None) -> Ending:
    """The ending that an error makes.

    Args:
        error: any error; those of the platform are known one by one.
        campaign_id: whose run it ended, for the commands.
    """
    happened = str(error) or type(error).__name__
    if not isinstance(error, errors.EmailPlatformError):
        happened = f"{type(error).__name__}: {error}"
    meaning, cure = next(_WORDS[kind] for kind in type(error).__mro__ if kind in _WORDS)
    return Ending(happened, meaning, cure.format(campaign="ID" if campaign_id is None else campaign_id))


def ending_of_stop(campaign: Campaign) -> Ending | None:
    """The ending of a campaign that somebody stopped, which is no failure; None where it may send, or has failed.

    Also the guard against bounces stops a campaign: it is paused then, with the figures as the reason.
    """
    number = campaign.campaign_id
    reason = campaign.status_reason or "no reason was given"
    subject = f"campaign {number} {campaign.name!r}"
    match campaign.status:
        case CampaignStatus.PAUSED:
            return Ending(
                f"{subject} is paused: {reason}",
                f"The calls in flight have their answers on record. {_NOBODY_LOST}",
                f"email-platform campaign resume {number}, or cancel {number}",
            )
        case CampaignStatus.CANCELLED:
            return Ending(
                f"{subject} is cancelled: {reason}",
                "The calls in flight have their answers on record; nobody else is mailed.",
                f"nothing to do; email-platform campaign clone {number} makes a copy",
            )
        case CampaignStatus.QUEUED:
            return Ending(
                f"{subject} was stopped and queued again",
                f"Its next run, attempt {campaign.attempt}, goes on where this one stopped.",
                "nothing to do",
            )
        case CampaignStatus.DRAFT:
            return Ending(
                f"{subject} is a draft",
                "Nobody is mailed.",
                f"email-platform campaign queue {number}",
            )
    return None
