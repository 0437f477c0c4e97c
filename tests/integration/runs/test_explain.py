"""Why a lead was mailed, or was not: twenty kinds of leads, each with its answer, on the real engines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, delete, insert, select
from typer.testing import CliRunner

from email_platform.adapters.assembly import open_explain, open_oltp, open_parts, open_warehouse
from email_platform.adapters.postgres.tables import campaign, lead, suppression
from email_platform.cli.app import app
from email_platform.domain.campaigns import CampaignStatus
from email_platform.domain.found_email import FoundEmail
from email_platform.domain.storage_layout import eligible_key
from email_platform.errors import CampaignNotFoundError, PartUnavailableError
from email_platform.runs.explain import explain, explain_address
from email_platform.runs.explanation import ExplainParts, Explanation
from email_platform.runs.finish import finish_sending
from email_platform.runs.freeze import freeze_audience
from email_platform.runs.load import load_staged
from email_platform.runs.parts import Parts
from email_platform.runs.send import send_chunk
from email_platform.sending.ledger import CallIntent, CallOutcome
from email_platform.settings import Settings
from tests.integration.campaign_rows import in_city, queue_campaign, row_of, seed_leads, unique

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def small(settings: Settings) -> Settings:
    return settings.model_copy(update={"chunk_rows": 10, "provider_connections": 4})


@pytest.fixture
def parts(small: Settings) -> Iterator[Parts]:
    with open_parts(small) as opened:
        yield opened


@pytest.fixture
def engine(small: Settings) -> Iterator[Engine]:
    with open_oltp(small) as opened:
        yield opened


@pytest.fixture
def asked(small: Settings) -> Iterator[ExplainParts]:
    with open_explain(small) as opened:
        yield opened


@dataclass
class World:
    """Leads of a city of their own, by name, and the campaign to them."""

    engine: Engine
    parts: Parts
    settings: Settings
    ids: dict[str, int]
    addresses: dict[str, str]
    campaign_id: int

    def send(self, chunks: Sequence[int] | None = None) -> None:
        manifest = freeze_audience(self.parts, self.campaign_id).manifest
        for index in range(manifest.chunk_count) if chunks is None else chunks:
            send_chunk(self.parts, self.campaign_id, index, holder=unique("test"))

    def finish_and_load(self) -> None:
        finish_sending(self.parts, self.campaign_id)
        with open_warehouse(self.settings) as warehouse:
            load_staged(self.parts.register, warehouse, self.campaign_id)


@contextmanager
def a_world(
    engine: Engine, parts: Parts, settings: Settings, leads: dict[str, dict[str, Any]], **row: Any
) -> Iterator[World]:
    addresses = {name: f"{unique(name).replace(' ', '-')}@example.com" for name in leads}
    rows = [{"email": addresses[name], "unsubscribed_at": None, **columns} for name, columns in leads.items()]
    city = seed_leads(engine, rows)
    with engine.connect() as connection:
        ids = list(connection.execute(select(lead.c.id).where(lead.c.city == city).order_by(lead.c.id)).scalars())
    yield World(
        engine,
        parts,
        settings,
        dict(zip(leads, ids, strict=True)),
        addresses,
        queue_campaign(engine, in_city(city), **row),
    )


def texts(found: Explanation, kind: str) -> list[str]:
    return [fact.text for fact in found.facts if fact.kind == kind]


def test_every_kind_of_lead_of_a_sent_campaign_gets_its_own_answer(
    engine: Engine, parts: Parts, small: Settings, asked: ExplainParts
) -> None:
    shared, opted_out = f"{unique('shared')}@example.com", f"{unique('opted')}@example.com"
    with a_world(
        engine,
        parts,
        small,
        {
            "mailed": {},
            "blocked": {"email": f"{unique('somebody')}@blocked.example"},
            "nameless": {"first_name": None},
            "first of two": {"email": shared},
            "second of two": {"email": shared.upper()},
            "without address": {"email": "no-at-sign\x07"},
            "opted out": {"unsubscribed_at": "2026-01-01T00:00:00Z"},
            "same address as one who opted out": {"email": opted_out},
            "suppressed": {},
            "suppressed since": {},
            "complained later": {},
        },
    ) as world:
        ids = world.ids
        with engine.begin() as connection:
            connection.execute(
                insert(lead),
                [{"email": opted_out, "city": unique("elsewhere"), "unsubscribed_at": "2026-02-02T00:00:00Z"}],
            )
            connection.execute(
                insert(suppression),
                [{"address": world.addresses["suppressed"], "reason": "hard_bounce", "source": "ses/default"}],
            )
        freeze_audience(parts, world.campaign_id)
        with engine.begin() as connection:
            connection.execute(
                insert(suppression).values(
                    address=world.addresses["suppressed since"], reason="complaint", source="ses/default"
                )
            )
        world.send()
        with engine.begin() as connection:
            connection.execute(
                insert(lead),
                [{"email": "late@example.com", "city": row_of(engine, world.campaign_id).condition["all"][0]["value"]}],
            )
            late = connection.execute(select(lead.c.id).order_by(lead.c.id.desc()).limit(1)).scalar_one()
            other = connection.execute(
                insert(lead).values(email="x@example.com", city="Bern", attributes={}).returning(lead.c.id)
            ).scalar_one()

        def of(lead_id: int) -> Explanation:
            return explain(asked, world.campaign_id, lead_id)

        def answers() -> dict[str, tuple[str, str]]:
            return {name: (of(lead_id).verdict, of(lead_id).summary) for name, lead_id in ids.items()}

        while_sending = answers()
        assert while_sending == {
            "mailed": ("accepted", "mailed: the provider accepted the message"),
            "blocked": ("rejected", while_sending["blocked"][1]),
            "nameless": ("rejected", "not mailed: refused: content_error: first_name is missing"),
            "first of two": ("accepted", "mailed: the provider accepted the message"),
            "second of two": (
                "excluded", f"left out: lead {ids['first of two']} has the same address and got the message"
            ),
            "without address": ("excluded", "left out: 'no-at-sign\\x07' is no address that can be mailed"),
            "opted out": ("excluded", "left out: the address, or the lead, has unsubscribed"),
            "same address as one who opted out": ("excluded", "left out: the address, or the lead, has unsubscribed"),
            "suppressed": ("excluded", "left out: the address is on the suppression list"),
            "suppressed since": (
                "rejected", "left out before the call: complaint: suppressed after the audience was frozen"
            ),
            "complained later": ("accepted", "mailed: the provider accepted the message"),
        }  # fmt: skip
        assert while_sending["blocked"][1].startswith("not mailed: refused: ")
        assert texts(of(ids["suppressed"]), "suppression") == ["hard bounce, by ses/default, for every sender"]
        assert texts(of(ids["suppressed since"]), "suppression") == ["complaint, by ses/default, for every sender"]
        assert texts(of(ids["opted out"]), "lead") == ["the lead unsubscribed"]
        [why] = texts(of(ids["same address as one who opted out"]), "lead")
        assert why.endswith("which has the same address, unsubscribed")
        calls = texts(of(ids["mailed"]), "call")
        assert calls[0] == "call 0 of chunk 0 was about to be made"
        assert calls[1].startswith("call 0 of chunk 0: accepted, as ")

        assert of(late).verdict == "not_in_audience"
        assert "the lead's row meets the condition now" in of(late).summary
        assert of(other).summary.startswith("not in the audience; the condition is not met: city is 'city-")
        assert of(other).summary.endswith("the lead has 'Bern'")
        assert of(2**62).summary == "not in the audience; there is no row of the lead now"

        world.finish_and_load()
        assert answers() == while_sending  # the same once it is sent and loaded
        with engine.begin() as connection:  # and when the rows are gone
            connection.execute(delete(lead).where(lead.c.id.in_(list(ids.values()))))
            connection.execute(delete(campaign).where(campaign.c.id == world.campaign_id))
        assert {name: verdict for name, (verdict, _) in answers().items()} == {
            name: verdict for name, (verdict, _) in while_sending.items()
        }
        assert "there is no row of the campaign now" in texts(of(ids["mailed"]), "campaign")

        history = explain_address(asked, shared.upper(), 10)
        assert {(one.lead_id, one.status, one.error) for one in history.emails or ()} == {
            (ids["first of two"], "accepted", ""),
            (ids["second of two"], "excluded", "duplicate_address"),
        }
        assert history.leads == ()


def test_a_lead_that_waits_is_said_to_wait_and_why(
    engine: Engine, parts: Parts, small: Settings, asked: ExplainParts
) -> None:
    names = {str(number): {} for number in range(12)}
    with a_world(engine, parts, small, names) as world:
        world.send(chunks=[0])
        assert explain(asked, world.campaign_id, world.ids["0"]).verdict == "accepted"
        waiting = explain(asked, world.campaign_id, world.ids["11"])
        assert (waiting.verdict, waiting.summary) == ("waiting", "in the audience; the call is still to be made")
        history = explain_address(asked, world.addresses["11"], 10)
        of_it = [one.verdict for one in history.open_campaigns if one.campaign_id == world.campaign_id]
        assert of_it == ["waiting"]  # nothing of it is loaded yet
        parts.campaigns.change_status(world.campaign_id, CampaignStatus.PAUSED, "lunch")
        waiting = explain(asked, world.campaign_id, world.ids["11"])
        assert waiting.summary == "in the audience and not called, since the campaign is paused (lunch)"


def test_an_unanswered_call_is_unknown_and_an_operator_s_decision_is_named(
    engine: Engine, parts: Parts, small: Settings, asked: ExplainParts
) -> None:
    with a_world(engine, parts, small, {"one": {}}) as world:
        freeze_audience(parts, world.campaign_id)
        lease = parts.ledger.take_lease(world.campaign_id, 0, "test")
        assert lease is not None
        parts.ledger.turn(lease, [], [CallIntent(0, UUID(int=1), 0, 1, b"x" * 32)])
        assert explain(asked, world.campaign_id, world.ids["one"]).verdict == "unknown"
        parts.ledger.turn(lease, [CallOutcome(0, "unknown", None, "the connection was cut")], [])
        parts.ledger.release_lease(lease)
        unknown = explain(asked, world.campaign_id, world.ids["one"])
        assert (unknown.verdict, texts(unknown, "call")[-1]) == (
            "unknown", "call 0 of chunk 0: no answer; it may have been accepted: the connection was cut"
        )  # fmt: skip
        parts.ledger.decide_unknown(world.campaign_id, "abandon")
        assert explain(asked, world.campaign_id, world.ids["one"]).verdict == "abandoned"


CONDITION = {
    "all": [
        {
            "any": [
                {"field": "country", "op": "in", "value": ["AT", "DE"]},
                {"field": "plan", "op": "eq", "value": "pro"},
            ]
        },
        {"not": {"field": "attributes.churned", "op": "eq", "value": True}},
        {"field": "attributes.score", "op": "gte", "value": 10},
    ]
}


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        (
            {"country": "FR", "plan": "free", "attributes": {"score": 12}},
            "none of these holds: country is one of 'AT', 'DE': the lead has 'FR'; "
            "or plan is 'pro': the lead has 'free'",
        ),
        (
            {"country": "DE", "attributes": {"score": "12"}},
            "attributes.score is at least 10: the lead has none of type number",
        ),
        ({"country": "DE", "attributes": {"score": 9.5}}, "attributes.score is at least 10: the lead has '9.5'"),
        (
            {"country": "DE", "attributes": {"score": 12, "churned": True}},
            "this must not hold, and does: attributes.churned is true",
        ),
    ],
)
def test_a_condition_that_is_not_met_is_named_with_the_lead_s_value(
    engine: Engine, parts: Parts, asked: ExplainParts, columns: dict[str, Any], answer: str
) -> None:
    campaign_id = queue_campaign(engine, CONDITION, status="draft")
    seed_leads(engine, [{"email": f"{unique('lead')}@example.com", **columns}])
    with engine.connect() as connection:
        lead_id = connection.execute(select(lead.c.id).order_by(lead.c.id.desc()).limit(1)).scalar_one()
    found = explain(asked, campaign_id, lead_id)
    assert found.verdict == "not_frozen"
    assert found.summary.endswith(f"as things are now, the lead does not meet the condition: {answer}")


def test_before_the_audience_is_frozen_the_answer_is_that_of_now(
    engine: Engine, parts: Parts, small: Settings, asked: ExplainParts
) -> None:
    with a_world(
        engine,
        parts,
        small,
        {"fine": {}, "opted out": {"unsubscribed_at": "2026-01-01T00:00:00Z"}, "odd": {"email": "x"}},
    ) as world:
        found = {name: explain(asked, world.campaign_id, lead_id).summary for name, lead_id in world.ids.items()}
        now = "nothing is decided yet, the campaign is queued; as things are now, "
        assert found == {
            "fine": now + "the lead would be mailed (unless a lead with a lower id has the same address)",
            "opted out": now + "the lead would be left out: unsubscribe",
            "odd": now + "the lead would be left out: its address cannot be mailed",
        }
        assert explain(asked, world.campaign_id, 2**62).summary == now + "there is no such lead"
    with pytest.raises(CampaignNotFoundError):
        explain(asked, 2**62, 1)


class _Away:
    """A warehouse that does not answer."""

    def of_campaign_and_lead(self, campaign_id: int, lead_id: int) -> Sequence[FoundEmail]:
        raise PartUnavailableError("ClickHouse does not answer")

    def of_address(self, address: str, limit: int) -> Sequence[FoundEmail]:
        raise PartUnavailableError("ClickHouse does not answer")


def test_a_warehouse_that_is_away_and_a_manifest_that_is_gone_are_named(
    engine: Engine, parts: Parts, small: Settings, asked: ExplainParts
) -> None:
    with a_world(engine, parts, small, {"one": {}}) as world:
        world.send()
        without = replace(asked, emails=_Away())
        found = explain(without, world.campaign_id, world.ids["one"])
        assert found.verdict == "accepted"
        assert texts(found, "not known") == ["events and imported emails: ClickHouse does not answer"]
        assert explain_address(without, world.addresses["one"], 10).emails is None
        manifest = parts.manifests.find(world.campaign_id)
        assert manifest is not None
        parts.store.delete(eligible_key(manifest.prefix))
        found = explain(asked, world.campaign_id, world.ids["one"])
        assert (found.verdict, texts(found, "not known")) == (
            "cannot_say", ["the frozen audience cannot be read from the bucket: FileNotFoundError"]
        )  # fmt: skip


def test_the_command_prints_a_timeline_and_escapes_what_a_lead_wrote(
    engine: Engine, parts: Parts, small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in small.variables().items():
        monkeypatch.setenv(name, value)
    with a_world(engine, parts, small, {"one": {}, "odd": {"email": "red\x1b[31m"}}) as world:
        world.send()
        run = CliRunner()
        shown = run.invoke(app, ["explain", "--campaign", str(world.campaign_id), "--lead", str(world.ids["one"])])
        assert shown.exit_code == 0, shown.output
        assert f"lead {world.ids['one']}: mailed: the provider accepted the message" in shown.output
        assert "call 0 of chunk 0: accepted, as" in shown.output
        odd = run.invoke(app, ["explain", "--campaign", str(world.campaign_id), "--lead", str(world.ids["odd"])])
        assert "\x1b[31m" not in odd.output
        assert "left out: 'red\\x1b[31m' is no address" in odd.output
        document = json.loads(
            run.invoke(app, ["explain", "--address", world.addresses["one"].upper(), "--json"]).output
        )
        [own] = [one for one in document["open_campaigns"] if one["campaign_id"] == world.campaign_id]
        assert own["verdict"] == "accepted"
        for wrong in (
            ["--campaign", "1"],
            ["--lead", "1"],
            [],
            ["--address", "a@b.c", "--campaign", "1", "--lead", "2"],
        ):
            assert run.invoke(app, ["explain", *wrong]).exit_code == 2
        nobody = run.invoke(app, ["explain", "--campaign", str(2**62), "--lead", "1"])
        assert nobody.exit_code == 1
