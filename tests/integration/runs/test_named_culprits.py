"""A provider that refuses a whole call and names the culprits: they alone end as rejected, all others are mailed once.

The server answers as SendGrid documents it ("Errors" of the Mail Send reference): a 400 with one entry an error, whose
``field`` names the personalization (``personalizations.3.to.0.email``), and nothing of such a call is queued.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import pytest
from sqlalchemy import Engine

from email_platform.adapters.assembly import open_oltp, open_parts
from email_platform.adapters.postgres.erased import erasure_key
from email_platform.adapters.postgres.events import PostgresSuppressions
from email_platform.audience.freeze import read_chunk
from email_platform.domain.campaigns import CampaignStatus
from email_platform.errors import OneRecipientRefusedError
from email_platform.events.suppression import SuppressionRequest
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.parts import find_manifest
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, numbered, queue_campaign, row_of, seed_leads, unique

pytestmark = pytest.mark.integration


@contextmanager
def sendgrid() -> Iterator[tuple[str, Counter[str], list[int]]]:
    """Its address, who was accepted how often, and each call's status; refuses addresses with ``bad`` or ``odd``."""
    accepted: Counter[str] = Counter()
    statuses: list[int] = []
    ids = count(1)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            addresses = [one["to"][0]["email"] for one in body["personalizations"]]
            errors = [
                {
                    "message": "Does not contain a valid address.",
                    "field": f"personalizations.{place}.to.0.email",
                    "help": None,
                }
                for place, address in enumerate(addresses)
                if "bad" in address
            ]
            if any("odd" in address for address in addresses):
                errors = [{"message": "Bad Request", "field": None, "help": None}]  # for a reason that it does not say
            answer = json.dumps({"errors": errors}).encode() if errors else b""
            self.send_response(400 if errors else 202)
            self.send_header("content-length", str(len(answer)))
            if not errors:
                self.send_header("x-message-id", f"m{next(ids)}")
                accepted.update(addresses)
            self.end_headers()
            self.wfile.write(answer)
            statuses.append(400 if errors else 202)

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", accepted, statuses
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with open_oltp(settings) as opened:
        yield opened


def test_the_culprits_that_sendgrid_names_end_as_rejected_and_everybody_else_is_mailed_once(
    settings: Settings, engine: Engine
) -> None:
    rows = numbered(60)
    for place in (3, 17, 59):
        rows[place]["email"] = f"bad-{unique('lead')}@example.com"
    campaign_id = queue_campaign(engine, in_city(seed_leads(engine, rows)), sender={"provider": "sendgrid"})
    with sendgrid() as (url, accepted, statuses):
        variables = {"EMAIL_PLATFORM_SENDGRID_API_KEY": "k", "EMAIL_PLATFORM_SENDGRID_BASE_URL": url}
        with open_parts(settings, variables) as parts:
            freeze_audience(parts, campaign_id)
            send_chunk(parts, campaign_id, 0, holder=unique("test"))
            totals = finish_sending(parts, campaign_id).totals
            results = [
                one for call in parts.ledger.calls(campaign_id, 0) if call.receipt for one in call.receipt.results
            ]
    good = {str(row["email"]) for row in rows if "bad" not in str(row["email"])}
    assert accepted == Counter(dict.fromkeys(good, 1))
    assert (totals.accepted, totals.rejected, totals.unknown) == (57, 3, 0)
    assert statuses == [400, 202], "the named ones are left out at once; nobody is looked for by halving"
    refused = [one for one in results if one.status == "rejected"]
    assert all("personalizations" in one.error_code for one in refused), refused


def test_the_only_recipient_left_is_named_where_he_is_refused_for_no_reason_and_an_operator_can_end_it(
    settings: Settings, engine: Engine
) -> None:
    odd = f"odd-{unique('lead')}@example.com"
    rows = [{**row, "email": odd} for row in numbered(1)]
    campaign_id = queue_campaign(engine, in_city(seed_leads(engine, rows)), sender={"provider": "sendgrid"})
    with sendgrid() as (url, accepted, statuses):
        variables = {"EMAIL_PLATFORM_SENDGRID_API_KEY": "k", "EMAIL_PLATFORM_SENDGRID_BASE_URL": url}
        with open_parts(settings, variables) as parts:
            freeze_audience(parts, campaign_id)
            for _ in range(2):  # a resumption changes nothing by itself: nobody shows whose fault it is
                with pytest.raises(OneRecipientRefusedError, match="the only recipient who is left 5 times"):
                    send_chunk(parts, campaign_id, 0, holder=unique("test"))
                row = row_of(engine, campaign_id)
                (lead_id,) = read_chunk(parts.store, find_manifest(parts, campaign_id), 0)["lead_id"].to_pylist()
                assert row.status == "paused"
                assert row.status_reason is not None
                assert f"It is lead {lead_id}." in row.status_reason
                assert odd not in row.status_reason
                parts.campaigns.change_status(campaign_id, CampaignStatus.QUEUED)
                parts.campaigns.change_status(campaign_id, CampaignStatus.SENDING)
            PostgresSuppressions(engine, erasure_key(settings)).add(
                [SuppressionRequest(odd, "manual", "operator", everywhere=True)]
            )
            send_chunk(parts, campaign_id, 0, holder=unique("test"))
            totals = finish_sending(parts, campaign_id).totals
    assert not accepted
    assert statuses == [400] * 10
    assert (totals.accepted, totals.rejected, totals.unknown) == (0, 1, 0)
