"""The operator's decision about calls of unknown outcome, as an op with its decision in the run's config."""

from typing import Literal

import dagster as dg

from assets.outcomes import final_errors_end_the_run
from email_platform.runs.unknown import decide_unknown_calls
from resources.parts import PartsResource


class UnknownCallsDecision(dg.Config):
    """What to do, and with which calls.

    Attributes:
        decision: ``abandon`` (never twice; some may have got nothing) or ``resend`` (never missed; some may get two).
        chunk_index: only this chunk's calls; None for all of the campaign's.
    """

    campaign_id: int
    decision: Literal["abandon", "resend"]
    chunk_index: int | None = None


@dg.op
def decide_about_unknown_calls(
    context: dg.OpExecutionContext, config: UnknownCallsDecision, parts: PartsResource
) -> None:
    """Apply the decision in the ledger and stage the chunks again; resent calls go out with the next run."""
    with final_errors_end_the_run(config.campaign_id), parts.open() as opened:
        decided = decide_unknown_calls(opened, config.campaign_id, config.decision, config.chunk_index)
    context.add_output_metadata(
        {
            "decision": config.decision,
            "calls": decided.calls,
            "recipients": decided.recipients,
            "chunks": dg.MetadataValue.json(list(decided.chunks)),
            "campaign status": decided.campaign.status.value,
        }
    )
