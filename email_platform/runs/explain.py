"""Why a lead was mailed, or was not: one answer from manifest, ledger, suppressions, lead and warehouse.

Invariant: what decided is read where it was decided: the frozen manifest and the ledger, also while the campaign is
sending. Today's rows (the lead, the suppressions) are named as today's, and what cannot be looked up is named too: a
part that does not answer, an object that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from email_platform.audience.condition_answers import comparisons_of, unmet
from email_platform.audience.conditions import parse_condition
from email_platform.audience.freeze import read_chunk
from email_platform.domain.addresses import normalised_address
from email_platform.domain.campaigns import Campaign, CampaignStatus
from email_platform.domain.found_email import FoundEmail
from email_platform.domain.manifest import Manifest
from email_platform.domain.manifest_rows import rows_of_addresses, rows_of_lead
from email_platform.domain.storage_layout import deliveries_key, eligible_key, excluded_key
from email_platform.errors import CampaignNotFoundError, InvalidConditionError, PartUnavailableError
from email_platform.runs.explanation import AddressHistory, ExplainParts, Explanation, Fact, FactKind, Verdict
from email_platform.sending.ledger import SUPPRESSED_CODE, CallRecord
from email_platform.staging.delivery_objects import delivery_table

_OPEN_CAMPAIGNS = 20
_LEADS_OF_AN_ADDRESS = 20


def explain(parts: ExplainParts, campaign_id: int, lead_id: int) -> Explanation:
    """What became of the lead in the campaign, and why.

    Raises:
        CampaignNotFoundError: neither PostgreSQL nor the warehouse knows the campaign and lead.
        PartUnavailableError: PostgreSQL or the bucket is away. (A warehouse that is away is named among the facts.)
    """
    return _Inquiry(parts, campaign_id, lead_id).answer()


def explain_address(parts: ExplainParts, address: str, limit: int) -> AddressHistory:
    """What is known of an address over all campaigns.

    Args:
        parts: where to look.
        address: in upper or lower case.
        limit: at most so many emails.

    Raises:
        PartUnavailableError: PostgreSQL or the bucket is away.
    """
    wanted = normalised_address(address)
    leads = parts.leads.with_address(wanted, _LEADS_OF_AN_ADDRESS)
    try:
        emails: tuple[FoundEmail, ...] | None = tuple(parts.emails.of_address(wanted, limit))
    except PartUnavailableError:
        emails = None
    loaded = {(one.campaign_id, one.lead_id) for one in emails or ()}
    at_work = (CampaignStatus.QUEUED, CampaignStatus.SENDING, CampaignStatus.PAUSED)
    explanations = [
        explain(parts, campaign.campaign_id, one.lead_id)
        for campaign in parts.parts.campaigns.newest(_OPEN_CAMPAIGNS)
        if campaign.status in at_work
        for one in leads or ()
        if (campaign.campaign_id, one.lead_id) not in loaded
    ]
    return AddressHistory(
        wanted,
        tuple(parts.suppressions.of_address(wanted)),
        None if leads is None else tuple(leads),
        emails,
        tuple(explanations),
    )


class _Inquiry:
    """Collects the facts of one campaign and lead.

    Length: one question a method, and all of them add to the same facts.
    """

    def __init__(self, parts: ExplainParts, campaign_id: int, lead_id: int) -> None:
        self._parts = parts
        self._campaign_id = campaign_id
        self._lead_id = lead_id
        self._facts: list[Fact] = []

    def answer(self) -> Explanation:
        campaign = self._campaign()
        manifest = self._parts.parts.manifests.find(self._campaign_id)
        emails = self._emails()
        if manifest is not None:
            verdict, summary = self._in_manifest(campaign, manifest)
        elif any(one.is_old for one in emails):
            verdict, summary = _imported(emails)
        elif campaign is not None:
            verdict, summary = self._before_freezing(campaign)
        elif emails:
            verdict, summary = _loaded_verdict(emails[0])
        else:
            raise CampaignNotFoundError(self._campaign_id)
        facts = sorted(self._facts, key=lambda one: (one.at is None, one.at or datetime.min.replace(tzinfo=UTC)))
        return Explanation(self._campaign_id, self._lead_id, verdict, summary, tuple(facts))

    def _note(self, kind: FactKind, text: str, at: datetime | None = None) -> None:
        self._facts.append(Fact(kind, text, at))

    def _campaign(self) -> Campaign | None:
        try:
            campaign = self._parts.parts.campaigns.get(self._campaign_id)
        except CampaignNotFoundError:
            self._note("campaign", "there is no row of the campaign now")
            return None
        reason = f" ({campaign.status_reason})" if campaign.status_reason else ""
        self._note("campaign", f"the campaign is {campaign.status}{reason}", campaign.finished_at)
        return campaign

    def _emails(self) -> Sequence[FoundEmail]:
        try:
            emails = self._parts.emails.of_campaign_and_lead(self._campaign_id, self._lead_id)
        except PartUnavailableError as error:
            self._note("not known", f"events and imported emails: {error}")
            return ()
        for email in emails:
            if email.is_old:
                error_text = f": {email.error}" if email.error else ""
                self._note("old system", f"{email.status}, to {email.email}{error_text}", email.occurred_at)
            for event in email.events:
                subtype = f", {event.subtype}" if event.subtype else ""
                self._note("event", f"{event.type}{subtype}", event.occurred_at)
        return emails

    # The audience is frozen.

    def _in_manifest(self, campaign: Campaign | None, manifest: Manifest) -> tuple[Verdict, str]:
        try:
            eligible = self._row(eligible_key(manifest.prefix), ["position", "email"])
            excluded = None if eligible else self._row(excluded_key(manifest.prefix), ["email", "reason"])
        except (FileNotFoundError, pa.ArrowException, KeyError, ValueError) as error:
            self._note("not known", f"the frozen audience cannot be read from the bucket: {type(error).__name__}")
            return "cannot_say", "the frozen audience cannot be read, so nobody can say whether the lead was in it"
        if eligible is not None:
            return self._called(campaign, manifest, eligible)
        if excluded is not None:
            return self._excluded(manifest, excluded)
        self._note("audience", "chosen without this lead", manifest.frozen_at)
        return self._not_chosen(campaign, manifest)

    def _row(self, key: str, columns: Sequence[str]) -> Mapping[str, Any] | None:
        with self._parts.parts.store.reader(key) as file:
            return next(rows_of_lead(pq.ParquetFile(file), self._lead_id, columns), None)

    def _called(
        self, campaign: Campaign | None, manifest: Manifest, eligible: Mapping[str, Any]
    ) -> tuple[Verdict, str]:
        chunk, offset = divmod(int(eligible["position"]), manifest.chunk_rows)
        if manifest.archived_at is not None:
            return self._archived(manifest, eligible, chunk, manifest.archived_at)
        ledger = self._parts.parts.ledger
        records = ledger.calls(self._campaign_id, chunk)
        finished = ledger.chunk_is_finished(self._campaign_id, chunk)
        first_position = chunk * manifest.chunk_rows
        self._note("audience", f"chosen, to be mailed at {eligible['email']} in chunk {chunk}", manifest.frozen_at)
        for record in records:
            for nth, one in enumerate(record.offsets_in_chunk(first_position)):
                if one == offset:
                    self._note_call(chunk, record, nth)
        recipients = read_chunk(self._parts.parts.store, manifest, chunk)
        deliveries = delivery_table(manifest, chunk, recipients, records, finished=finished)
        of_lead = deliveries.filter(pc.equal(deliveries["lead_id"], self._lead_id)).to_pylist()
        if not of_lead:
            return self._waiting(campaign)
        status: Verdict = of_lead[0]["status"]
        code, message = of_lead[0]["error_code"], of_lead[0]["error_message"]
        if code == SUPPRESSED_CODE:
            self._note_suppressions(eligible["email"], manifest.sender.sender_id)
            return status, f"left out before the call: {message}"
        words = ": ".join(part for part in (code, message) if part)
        return status, _SUMMARIES[status] + (f": {words}" if words else "")

    def _archived(
        self, manifest: Manifest, eligible: Mapping[str, Any], chunk: int, archived_at: datetime
    ) -> tuple[Verdict, str]:
        """The ledger's rows are gone; what became of the lead is in the chunk's staged object."""
        self._note("audience", f"chosen, to be mailed at {eligible['email']} in chunk {chunk}", manifest.frozen_at)
        text = "the campaign was archived: its calls are in the bucket, and this is from its staged deliveries"
        self._note("campaign", text, archived_at)
        try:
            row = self._row(deliveries_key(self._campaign_id, chunk), ["status", "error_code", "error_message"])
        except (FileNotFoundError, pa.ArrowException, KeyError, ValueError) as error:
            self._note("not known", f"its deliveries cannot be read from the bucket: {type(error).__name__}")
            return "cannot_say", "the campaign is archived, and its staged deliveries cannot be read"
        if row is None:
            return "waiting", "in the audience and never called; the campaign ended long ago and is archived"
        status: Verdict = row["status"]
        words = ": ".join(part for part in (row["error_code"], row["error_message"]) if part)
        return status, _SUMMARIES[status] + (f": {words}" if words else "") + " (archived)"

    def _note_call(self, chunk: int, record: CallRecord, nth: int) -> None:
        name = f"call {record.call_index} of chunk {chunk}"
        times = f", attempt {record.attempts}" if record.attempts > 1 else ""
        why = {"deferred": ", after a deferral", "in_doubt": ", after an attempt of unknown outcome"}
        if record.attempts:
            follows = why[record.follows] if record.follows else ""
            self._note("call", f"{name} was about to be made{times}{follows}", record.intent_at)
        at = record.receipt_at or (record.intent_at if record.receipt else None)
        if record.receipt is None:
            error = f": {record.error}" if record.error else ""
            self._note("call", f"{name}: {_STATES[record.state]}{error}", record.receipt_at)
            return
        result = record.receipt.result(nth)
        words = ": ".join(part for part in (result.error_code, result.error_message) if part)
        identifier = f", as {result.provider_message_id}" if result.provider_message_id else ""
        self._note("call", f"{name}: {result.status}{identifier}" + (f": {words}" if words else ""), at)

    def _waiting(self, campaign: Campaign | None) -> tuple[Verdict, str]:
        if campaign is None or campaign.status in (CampaignStatus.SENDING, CampaignStatus.QUEUED):
            return "waiting", "in the audience; the call is still to be made"
        reason = f" ({campaign.status_reason})" if campaign.status_reason else ""
        return "waiting", f"in the audience and not called, since the campaign is {campaign.status}{reason}"

    def _excluded(self, manifest: Manifest, excluded: Mapping[str, Any]) -> tuple[Verdict, str]:
        reason, address = excluded["reason"], excluded["email"] or ""
        self._note("audience", f"met the condition and was left out: {reason.replace('_', ' ')}", manifest.frozen_at)
        match reason:
            case "suppressed":
                self._note_suppressions(address, manifest.sender.sender_id)
                return "excluded", "left out: the address is on the suppression list"
            case "unsubscribed":
                self._note_unsubscribed(address)
                return "excluded", "left out: the address, or the lead, has unsubscribed"
            case "duplicate_address":
                other = self._lead_with_address(manifest, address)
                mailed = f"lead {other} has the same address and got the message" if other else "another lead has it"
                return "excluded", f"left out: {mailed}"
            case "invalid_address":
                return "excluded", f"left out: {address!r} is no address that can be mailed"
            case _:
                lead = self._parts.leads.lead(self._lead_id, ())
                if lead is not None and lead.unreadable:
                    self._note("lead", f"its attributes now: {lead.unreadable}")
                return "excluded", "left out: the lead's attributes cannot be read"

    def _lead_with_address(self, manifest: Manifest, address: str) -> int | None:
        with self._parts.parts.store.reader(eligible_key(manifest.prefix)) as file:
            row = next(rows_of_addresses(pq.ParquetFile(file), {normalised_address(address)}), None)
        return None if row is None else int(row["lead_id"])

    def _note_suppressions(self, address: str, sender_id: int) -> None:
        found = [
            one
            for one in self._parts.suppressions.of_address(normalised_address(address))
            if one.sender_id in (None, sender_id)
        ]
        for one in found:
            scope = "for every sender" if one.sender_id is None else f"for sender {one.sender_id}"
            self._note("suppression", f"{one.reason.replace('_', ' ')}, by {one.source}, {scope}", one.created_at)
        if not found:
            self._note("suppression", "the address is not on the list any more")

    def _note_unsubscribed(self, address: str) -> None:
        lead = self._parts.leads.lead(self._lead_id, ())
        if lead is None:
            self._note("lead", "there is no row of the lead now")
        elif lead.unsubscribed_at is not None:
            self._note("lead", "the lead unsubscribed", lead.unsubscribed_at)
            return
        others = self._parts.leads.with_address(normalised_address(address), _LEADS_OF_AN_ADDRESS)
        for other in others or ():
            if other.unsubscribed_at is not None:
                text = f"lead {other.lead_id}, which has the same address, unsubscribed"
                self._note("lead", text, other.unsubscribed_at)
        if others is None:
            self._note("not known", "which other lead has unsubscribed: searching by address took too long")

    def _not_chosen(self, campaign: Campaign | None, manifest: Manifest) -> tuple[Verdict, str]:
        if campaign is None:
            return "not_in_audience", "not in the audience; the condition is gone with the campaign's row"
        failures = self._failures(campaign)
        if failures is None:
            return "not_in_audience", "not in the audience; there is no row of the lead now"
        if failures:
            return "not_in_audience", "not in the audience; the condition is not met: " + "; ".join(failures)
        return "not_in_audience", (
            "not in the audience when it was frozen; the lead's row meets the condition now, so it was made or changed "
            "afterwards, or the condition was"
        )

    # The audience is not frozen.

    def _before_freezing(self, campaign: Campaign) -> tuple[Verdict, str]:
        failures = self._failures(campaign)
        beginning = f"nothing is decided yet, the campaign is {campaign.status}; as things are now, "
        if failures is None:
            return "not_frozen", beginning + "there is no such lead"
        if failures:
            return "not_frozen", beginning + "the lead does not meet the condition: " + "; ".join(failures)
        lead = self._parts.leads.lead(self._lead_id, ())
        if lead is None or not lead.is_valid:
            return "not_frozen", beginning + "the lead would be left out: its address cannot be mailed"
        address = lead.address or ""
        sender_id = campaign.sender.sender_id
        reasons = self._parts.parts.suppressions.suppressed(sender_id, [self._lead_id], [address])
        if self._lead_id in reasons:
            self._note_suppressions(address, sender_id)
            why = reasons[self._lead_id].replace("_", " ")
            return "not_frozen", beginning + f"the lead would be left out: {why}"
        if lead.unreadable:
            return "not_frozen", beginning + "the lead would be left out: its attributes cannot be read"
        return "not_frozen", (
            beginning + "the lead would be mailed (unless a lead with a lower id has the same address)"
        )

    def _failures(self, campaign: Campaign) -> list[str] | None:
        """What of the condition the lead's row of now does not meet; None where there is no row."""
        try:
            condition = parse_condition(self._parts.parts.audience.resolved(campaign.condition))
        except InvalidConditionError as error:
            self._note("not known", f"the campaign's condition of now cannot be read: {error}")
            return ["the condition cannot be read"]
        lead = self._parts.leads.lead(self._lead_id, list(comparisons_of(condition)))
        if lead is None:
            self._note("lead", "there is no row of the lead now")
            return None
        self._note("lead", "the lead's row was made", lead.created_at)
        failures = unmet(condition, lead.answers)
        for failure in failures:
            self._note("lead", f"as its row is now: {failure}")
        return failures


_SUMMARIES: Mapping[str, str] = {
    "accepted": "mailed: the provider accepted the message",
    "rejected": "not mailed: refused",
    "unknown": "unknown: the provider may have accepted the message, and no answer settles it",
    "abandoned": "unknown: the provider may have accepted the message; an operator decided not to send it again",
}
_STATES: Mapping[str, str] = {
    "planned": "to be made",
    "intent": "being made, or its process died before the answer",
    "accepted": "accepted",
    "rejected": "rejected",
    "unknown": "no answer; it may have been accepted",
    "abandoned": "no answer; an operator decided not to repeat it",
}


def _imported(emails: Sequence[FoundEmail]) -> tuple[Verdict, str]:
    newest = next(one for one in emails if one.is_old)
    error = f": {newest.error}" if newest.error else ""
    return "imported", f"sent by the old system, whose table has it as {newest.status}{error}"


def _loaded_verdict(email: FoundEmail) -> tuple[Verdict, str]:
    """Of a campaign that PostgreSQL has forgotten."""
    if email.status == "excluded":
        return "excluded", f"left out: {email.error.replace('_', ' ')}"
    verdicts: Mapping[str, Verdict] = {
        "accepted": "accepted",
        "rejected": "rejected",
        "unknown": "unknown",
        "abandoned": "abandoned",
    }
    error = f": {email.error}" if email.error else ""
    return verdicts.get(email.status, "cannot_say"), _SUMMARIES.get(email.status, email.status) + error
