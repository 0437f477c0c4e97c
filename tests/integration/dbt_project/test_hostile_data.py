"""Hostile texts go the whole way and come out as they went in: leads, sending, events, loads, and every report.

The same world shows that the reports do not depend on how they came about: by increments, from all rows at once, or in
an empty warehouse that was filled from the bucket.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from hashlib import sha256
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, delete, insert, select

from email_platform.adapters.assembly import (
    open_events,
    open_warehouse,
)
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.old_systems import import_legacy_month
from email_platform.adapters.postgres.tables import campaign, lead, suppression
from email_platform.domain.addresses import normalised_address
from email_platform.domain.identity import message_id
from email_platform.local.demo.legacy_emails import INDEXES, LegacyTable, generate_legacy_emails
from email_platform.local.provider_simulator.webhook_signature import signed_headers, signing_key
from email_platform.receiver.__main__ import open_app
from email_platform.receiver.app import RequestLimits
from email_platform.receiver.inbox_writer import InboxLimits
from email_platform.runs.events import take_in_events
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.legacy_table import Month
from email_platform.runs.load import account, load_staged
from email_platform.runs.rebuild import rebuild_warehouse
from email_platform.runs.send import send_chunk
from email_platform.settings import Settings
from email_platform.staging.accounting import require_all
from email_platform.staging.dimensions import refresh_dimensions
from tests.fakes.assembling import put_together
from tests.integration.campaign_rows import in_city, queue_campaign, seed_leads
from tests.integration.dbt_project.test_dbt_reports import LONGEST_ADDRESS, MARTS, Reports
from tests.integration.own_databases import closing_engine, own_warehouse
from tests.integration.own_world import OwnWorld, own_world

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# What a text column of PostgreSQL takes; a NUL it refuses, so that comes from the provider only (providers_text).
TEXTS = {
    "quotes": """it's "q" `b` ''two'' ""two"" $$dollar$$ ‘’ “” «» ´""",  # noqa: RUF001
    "backslashes": "\\ \\\\ \\N \\0 \\x00 \\u0000 \\' \\\" \\t \\n ends with \\",
    "white space": " \tleading\nand\r\nlines\rand \v \f \x07 \x1b[31m \x7f \u0085 \u00a0 \u2028 \u2029 trailing \n",
    "scripts": "😀 👩\u200d👩\u200d👧 🏳️\u200d🌈 e\u0301 é ṩ\u0323\u0307 \u202eשלום\u202c \u200f\ufeff"  # noqa: RUF001
    " عَرَبِيّ İıßΣς 漢字 𝒳 \U0010fffd",  # noqa: RUF001
    "templates": "{{ 7*7 }} {% raw %} {% include 'x' %} {# no #} ${x} #{x} <%= x %> %s %(x)s {0} {x!r} %% {{{",
    "sql": "'); drop table delivery; -- /* */ ' or '1'='1 \" union all select {x:String} ; # ? :x @x",
    "html": "<script>alert('1')</script> &amp; &lt; &#0; <b title=\"x\"> <!-- --> ]]> <a@b.example> =cmd|' /C calc'!A0",
    "words": "null NULL \\N NaN nan inf true 0 -1 1e999 0x1f 1970-01-01 [] {} () , ; | \ufffd ",
}
BLOCKED = "blocked.example"  # the simulator refuses it
LONGEST_MAILED = f"{'l' * 64}@{'d' * 63}.{'e' * 63}.{'f' * 54}.org"  # 254 characters
_numbers = count(1)


def providers_text(text: str) -> str:
    """What the provider says of it: the text, and what only JSON can carry."""
    return f"550 5.1.1 {text[:80]}\x00"


def providers_id(campaign_id: int, position: int, text: str) -> str:
    return f"<{campaign_id}-{position}-{text}>"


@dataclass(frozen=True, slots=True)
class Sent:
    """A campaign whose every text is one of the hostile ones."""

    campaign_id: int
    text: str
    lead_ids: tuple[int, ...]
    addresses: tuple[str, ...]


def somebodys_address(sent: Sent) -> str:
    """Of nobody whom we know; a complaint suppresses it all the same."""
    return f"a{sent.text}\x00{sent.campaign_id}@example.org"


@dataclass
class HostileProvider:
    """The simulator, whose answers are given hostile words on their way back."""

    url: str
    texts: dict[str, str] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        taken = httpx.post(f"{self.url}{path}", content=body, headers=headers, trust_env=False)
        asked, document = json.loads(body), taken.json()
        self.bodies.append(asked)
        campaign_id = asked["tags"]["campaign_id"]
        for position, result in enumerate(document.get("results", [])):
            text = self.texts[campaign_id]
            if result["status"] == "accepted":
                result["provider_message_id"] = providers_id(int(campaign_id), position, text)
            else:
                result |= {"code": f"{text}\x00", "message": providers_text(text)}
        return taken.status_code, json.dumps(document).encode()


@contextmanager
def hostile_provider(url: str) -> Iterator[tuple[str, HostileProvider]]:
    provider = HostileProvider(url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kept = ("authorization", "content-type", "idempotency-key")
            status, answer = provider.answer(self.path, body, {name: self.headers[name] for name in kept})
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True, slots=True)
class World(OwnWorld):
    """Hostile campaigns, and an old table, in databases of their own."""

    provider: HostileProvider

    def send(self, text: str) -> Sent:
        """Send a campaign full of this text to five leads; four others must be left out."""
        number = next(_numbers)
        mailed = (
            LONGEST_MAILED,
            f"{{{{7*7}}}}'or'1'='1'--/*`$x`*/%s|~^?#&!+{number}@example.org",
            f"ann-{number}@xn--bcher-kva.example",
            f"{number}@xn--4gbrim.xn--mgbaam7a8h",
            f"refused-{number}@{BLOCKED}",
        )
        left_out = (LONGEST_ADDRESS, f"{text}@example.org", f"ann-{number}@bücher.example", text)
        city = seed_leads(self.engine, [{"email": address, "first_name": text} for address in (*mailed, *left_out)])
        template = "{% raw %}" + text + "{% endraw %}"
        campaign_id = queue_campaign(
            self.engine,
            in_city(city),
            owner={"name": text, "email": f"{number} {text}"},
            sender={"from_name": " ".join(text.split())[:50] if text.isprintable() else "News"},
            name=text,
            subject_template=template,
            html_template=f"<p>{template}</p><p>{{{{ first_name }}}}</p>",
        )
        self.provider.texts[str(campaign_id)] = text
        manifest = freeze_audience(self.parts, campaign_id).manifest
        assert manifest.excluded_by_reason["invalid_address"] == len(left_out) - 1
        assert manifest.excluded_by_reason["duplicate_address"] == 1, "bücher.example is xn--bcher-kva.example"
        for index in range(manifest.chunk_count):
            send_chunk(self.parts, campaign_id, index, holder=f"hostile-{campaign_id}")
        finish_sending(self.parts, campaign_id)
        load_staged(self.parts.register, self.warehouse, campaign_id)
        require_all(account(self.parts, self.warehouse, campaign_id))
        with self.engine.connect() as connection:
            found = select(lead.c.id, lead.c.email).where(lead.c.city == city, lead.c.email.in_(mailed))
            ids: dict[str, int] = {row.email: row.id for row in connection.execute(found)}
        return Sent(campaign_id, text, tuple(ids[address] for address in mailed), mailed)

    def tell_what_became_of(self, campaigns: list[Sent]) -> None:
        """Signed events through the receiver: by message id, by the provider's id, and by the address alone."""
        assert self.settings.provider_webhook_secret is not None
        key = signing_key(self.settings.provider_webhook_secret.get_secret_value())
        now = datetime.now(UTC)
        posts = []
        for sent in campaigns:
            ours = [
                {"campaign": str(sent.campaign_id), "message_id": str(message_id(sent.campaign_id, lead_id))}
                for lead_id in sent.lead_ids
            ]
            events = [
                {"type": "bounced", "subtype": "hard", **ours[0]},
                {"type": "complained", **ours[1]},
                {
                    "type": "bounced",
                    "subtype": "soft",
                    "provider_message_id": providers_id(sent.campaign_id, 2, sent.text),
                },
                {"type": "bounced", "subtype": "hard", "recipient": f"Ann <{sent.addresses[3].upper()}>"},
                {"type": sent.text, **ours[0]},  # no word that we know
                {"type": "complained", "recipient": somebodys_address(sent)},
            ]
            events = [
                {
                    "event_id": f"{sent.text} {sent.campaign_id} {number}\x00",
                    "recipient": "x@example.org",
                    "detail": providers_text(sent.text),
                    "occurred_at": now.isoformat(),
                    **event,
                }
                for number, event in enumerate(events)
            ]
            body = json.dumps({"events": events}).encode()
            posts.append((body, signed_headers(key, f"hostile-{sent.campaign_id}", int(now.timestamp()), body)))

        async def post_all() -> list[int]:
            with open_app(self.settings, {}, InboxLimits(), RequestLimits()) as app:
                transport = httpx.ASGITransport(app)
                async with (
                    app.router.lifespan_context(app),
                    httpx.AsyncClient(transport=transport, base_url="http://receiver") as client,
                ):
                    return [
                        (await client.post("/events/simulator/default", content=body, headers=headers)).status_code
                        for body, headers in posts
                    ]

        assert asyncio.run(post_all()) == [200] * len(campaigns)
        with open_events(self.settings) as events_in:
            report = take_in_events(events_in, self.parts, self.warehouse)
        assert (report.staged.events, report.staged.problems) == (6 * len(campaigns), 0)

    def refresh(self) -> None:
        refresh_dimensions(self.parts.dimensions, self.store, self.warehouse, self.parts.clock)


@pytest.fixture
def world(stack: Settings, tmp_path: Path) -> Iterator[World]:
    assert stack.provider_url is not None
    assert stack.provider_api_key is not None
    with hostile_provider(stack.provider_url) as (url, provider):
        accounts = {
            "EMAIL_PLATFORM_SIMULATOR_BASE_URL": url,
            "EMAIL_PLATFORM_SIMULATOR_API_KEY": stack.provider_api_key.get_secret_value(),
        }
        with own_world(stack, "hostile", accounts) as own:
            yield World.of(own, provider=provider)


def make_old_table(settings: Settings) -> None:
    """2,000 old rows of two months, hostile ones among them."""
    with old_database(settings) as engine:
        generate_legacy_emails(engine, LegacyTable(2_000, date(2025, 1, 1), 2), with_indexes=False)
        with engine.begin() as connection:
            for index in INDEXES:
                connection.exec_driver_sql(index)


def change_old_table(settings: Settings) -> None:
    """Some rows go, some change their month or their campaign."""
    with old_database(settings) as engine, engine.begin() as connection:
        connection.exec_driver_sql("update email set created_at = created_at + interval '1 month' where id in (5, 6)")
        connection.exec_driver_sql("update email set campaign_id = campaign_id + 1000 where id between 10 and 20")
        connection.exec_driver_sql("delete from email where id between 30 and 40")


def old_database(settings: Settings) -> AbstractContextManager[Engine]:
    assert settings.legacy_url is not None
    return closing_engine(settings.legacy_url.get_secret_value())


def import_old_table(settings: Settings) -> None:
    for month in (Month(2025, 1), Month(2025, 2)):
        assert import_legacy_month(settings, month).differences() == []


# When something was computed or loaded, which differs from build to build and says nothing of the data.
WHEN_IT_WAS_LEARNT = {"email": ("updated_at",), "campaign_summary": ("snapshot_at",)}


def fingerprints(reports: Reports) -> dict[str, tuple[int, str]]:
    """Rows and a hash of every value of every report, but for the times of loads."""
    digests = {}
    for mart in MARTS:
        left_out = ("as_of", *WHEN_IT_WAS_LEARNT.get(mart, ()))
        rows = [
            repr([(name, value) for name, value in row.items() if name not in left_out])
            for row in reports.rows(mart, "1")
        ]
        digests[mart] = (len(rows), sha256("\n".join(sorted(rows)).encode("utf-8", "surrogatepass")).hexdigest())
    return digests


def test_hostile_texts_come_out_of_every_report_and_a_rebuilt_warehouse_reports_the_same(
    world: World, tmp_path: Path
) -> None:
    def reports_of(settings: Settings, warehouse: ClickHouseWarehouse) -> Reports:
        folder = tmp_path / warehouse.database
        folder.mkdir()
        return Reports(settings, warehouse, world.store, folder, folder)

    reports = reports_of(world.settings, world.warehouse)
    campaigns = [world.send(text) for text in TEXTS.values()]
    make_old_table(world.settings)
    import_old_table(world.settings)
    soon_gone = queue_campaign(world.engine, {"all": []}, status="draft", name="soon gone")
    world.refresh()
    reports.models()

    world.tell_what_became_of(campaigns)
    with world.engine.begin() as connection:
        for number, text in enumerate(TEXTS.values()):
            row = {"address": f"{number}@example.org", "reason": "manual", "source": text}
            connection.execute(insert(suppression).values(row))
        connection.execute(delete(campaign).where(campaign.c.id == soon_gone))
    change_old_table(world.settings)
    import_old_table(world.settings)
    for text in TEXTS.values():
        queue_campaign(world.engine, {"all": []}, status="paused", status_reason=text, name=text)
    world.refresh()
    reports.build()

    for sent in campaigns:
        the_messages_hold_the_text(world, sent)
        the_reports_hold_the_text(world, reports, sent)
    with world.engine.connect() as connection:
        suppressed = set(connection.execute(select(suppression.c.address)).scalars())
    for sent in campaigns:
        if "<" not in sent.text:  # else what stands in angle brackets is the address
            assert normalised_address(somebodys_address(sent).replace("\x00", "")) in suppressed
    reasons = [row["status_reason"] for row in reports.rows("campaign_summary", "campaign_id")]
    assert [reason for reason in reasons if reason is not None][-len(TEXTS) :] == list(TEXTS.values())
    sources = {row["source"] for row in reports.rows("suppression_growth", "1")}
    assert set(TEXTS.values()) < sources

    by_increments = fingerprints(reports)
    assert min(rows for rows, _ in by_increments.values()) > 0
    rebuilt_settings = own_warehouse(world.settings, "test_hostile_rebuilt")
    with open_warehouse(rebuilt_settings) as rebuilt:
        report = rebuild_warehouse(world.store, world.parts.register, world.parts.manifests, rebuilt)
        assert report.is_complete
        of_rebuilt = reports_of(rebuilt_settings, rebuilt)
        of_rebuilt.models()
        assert fingerprints(of_rebuilt) == by_increments
    reports.models("--full-refresh")
    assert fingerprints(reports) == by_increments


def the_messages_hold_the_text(world: World, sent: Sent) -> None:
    """What the provider was handed: the template's text as it is, the lead's escaped for HTML."""
    body, *later = [body for body in world.provider.bodies if body["tags"]["campaign_id"] == str(sent.campaign_id)]
    # A code that nobody knows may be anybody's fault: whom it refused beside the others was asked for alone once more.
    assert [[message["to"] for message in again["recipients"]] for again in later] == [[sent.addresses[-1]]]
    of_template = "\n".join(sent.text.replace("\r\n", "\n").split("\r"))  # Jinja writes every line's end as \n
    for _, message in put_together("simulator", json.dumps(body).encode()):
        assert message.html == f"<p>{of_template}</p><p>{escape(sent.text)}</p>".replace("&#x27;", "&#39;").replace(
            "&quot;", "&#34;"
        )
    assert sorted(message["to"] for message in body["recipients"]) == sorted(sent.addresses)


def the_reports_hold_the_text(world: World, reports: Reports, sent: Sent) -> None:
    text, campaign_id = sent.text, sent.campaign_id
    excluded = world.warehouse.client.query(
        f"select email from exclusion final where campaign_id = {campaign_id} order by lead_id"
    ).result_rows
    # An address is without the spaces around it, from the manifest on.
    assert [address for (address,) in excluded][1::2] == [f"{text}@example.org".lstrip(" "), text.strip(" ")]
    assert excluded[0] == (LONGEST_ADDRESS,)

    of_campaign = {
        mart: [row for row in reports.rows(mart, "lead_id") if row["campaign_id"] == campaign_id]
        for mart in ("campaign_recipients", "lead_history", "email")
    }
    delivered = world.warehouse.client.query(
        f"select email, provider_message_id, error_code from delivery final where campaign_id = {campaign_id} "
        "order by lead_id"
    ).result_rows
    ids = {address: providers_id(campaign_id, position, text) for position, address in enumerate(sent.addresses[:4])}
    code = text  # without the NUL: PostgreSQL, which keeps the receipts, has none
    assert delivered == [(one, ids.get(one, ""), "" if one in ids else code) for one in sent.addresses]
    for mart, rows in of_campaign.items():
        assert [row["email"] for row in rows] == list(sent.addresses), mart
    assert [row["provider_message_id"] for row in of_campaign["email"]] == [*ids.values(), None]
    assert [row["provider_message_id"] for row in of_campaign["campaign_recipients"]] == [*ids.values(), ""]

    words = ["bounced_hard", "complained", "bounced_soft", "bounced_hard", "rejected"]
    assert [row["status"] for row in of_campaign["campaign_recipients"]] == words
    reason = providers_text(text)
    for mart, rows in of_campaign.items():
        assert [row["error"] for row in rows][:4] == [reason] * 4, mart
        assert rows[4]["error"].startswith(f"{code}: 550 5.1.1 "), mart
    subject = "{% raw %}" + text + "{% endraw %}"
    assert {row["subject"] for row in of_campaign["email"]} == {subject}

    [summary] = [row for row in reports.rows("campaign_summary", "1") if row["campaign_id"] == campaign_id]
    assert (summary["name"], summary["owner_name"]) == (text, text)
    assert summary["owner_email"].endswith(text)
    counts = ("considered", "eligible", "accepted", "rejected", "bounced_hard", "bounced_soft", "complained")
    assert [summary[name] for name in counts] == [9, 5, 4, 1, 2, 1, 1]
    reasons = [row for row in reports.rows("bounce_reasons", "problem") if row["campaign_id"] == campaign_id]
    domains = {address.rpartition("@")[2] for address in sent.addresses}
    assert {row["recipient_domain"] for row in reasons} | {"example.org"} == domains
    assert {row["example_reason"] for row in reasons if row["problem"] != "rejected"} == {reason}
    [hour] = [row for row in reports.rows("hourly_throughput", "1") if row["campaign_id"] == campaign_id]
    assert (hour["accepted"], hour["rejected"]) == (4, 1)
    by_domain = {row["recipient_domain"] for row in reports.rows("domain_deliverability", "1")}
    assert domains <= by_domain
