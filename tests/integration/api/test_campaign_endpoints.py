"""Campaigns over HTTP, on the real database: made once, edited by version, seen by their owner only."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from email_platform.adapters.postgres.tables import campaign as campaign_table
from email_platform.adapters.postgres.tables import send_call
from tests.integration.api.conftest import Api, Client, Owner, campaign
from tests.integration.campaign_rows import in_city, numbered, seed_leads

pytestmark = pytest.mark.integration


def test_a_campaign_goes_from_draft_to_cancelled(of_owner: Client, owner: Owner) -> None:
    made = of_owner.make("/v1/campaigns", campaign(owner))
    assert made.status_code == 201
    path = f"/v1/campaigns/{made.json()['campaign_id']}"
    shown = of_owner.get(path).json()
    assert (shown["status"], shown["owner"], shown["version"]) == ("draft", owner.email, 1)
    queued = of_owner.post(f"{path}/queue", json={"at": "2199-12-01 09:00 Europe/Berlin"}).json()
    assert (queued["status"], queued["scheduled_at"], queued["waits_for"]) == (
        "queued",
        "2199-12-01T08:00:00Z",
        "time",
    )
    paused = of_owner.post(f"{path}/pause", json={"reason": "a typo"}).json()
    assert (paused["status"], paused["status_reason"]) == ("paused", "by an operator: a typo"), (
        "an alert for it would call somebody"
    )
    assert of_owner.post(f"{path}/resume").json()["status"] == "queued"
    assert of_owner.post(f"{path}/cancel").json()["status"] == "cancelled"
    refused = of_owner.post(f"{path}/queue")
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    assert "it is final" in refused.json()["detail"]


def test_a_draft_is_not_sent_by_a_resume(of_owner: Client, owner: Owner) -> None:
    made = of_owner.make("/v1/campaigns", campaign(owner)).json()["campaign_id"]
    assert of_owner.post(f"/v1/campaigns/{made}/resume").status_code == 409
    assert of_owner.get(f"/v1/campaigns/{made}").json()["status"] == "draft"


def test_a_repeated_create_makes_one_campaign_and_gets_the_first_answer(of_owner: Client, owner: Owner) -> None:
    body, key = campaign(owner), str(uuid4())
    first = of_owner.make("/v1/campaigns", body, key)
    again = of_owner.make("/v1/campaigns", body, key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert ("Idempotent-Replayed" in first.headers, again.headers["Idempotent-Replayed"]) == (False, "true")
    other = of_owner.make("/v1/campaigns", {**body, "name": "Another"}, key)
    assert (other.status_code, "another request" in other.json()["detail"]) == (422, True)
    assert len(of_owner.get("/v1/campaigns").json()["items"]) == 1


def test_equal_creates_at_once_make_one_campaign(api: Api, owner: Owner) -> None:
    secret, body, key = api.key("owner", owner.email), campaign(owner), str(uuid4())
    together = threading.Barrier(4)

    def create(_: int) -> tuple[int, int]:
        with api.client(secret) as client:
            together.wait()
            answer = client.make("/v1/campaigns", body, key)
            return answer.status_code, answer.json()["campaign_id"]

    with ThreadPoolExecutor(4) as pool:
        answers = set(pool.map(create, range(4)))
    assert len(answers) == 1
    with api.engine.connect() as connection:
        made = select(func.count()).where(campaign_table.c.owner_id == owner.user_id)
        assert connection.execute(made).scalar_one() == 1


def test_a_key_of_a_create_that_failed_may_be_used_again(of_owner: Client, owner: Owner) -> None:
    key = str(uuid4())
    wrong = of_owner.make("/v1/campaigns", campaign(owner, condition={"all": [{"field": "shoe", "op": "eq"}]}), key)
    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["field"].startswith("body.condition.all[0]")
    assert of_owner.make("/v1/campaigns", campaign(owner), key).status_code == 201


def test_the_second_of_two_editors_is_refused_and_nothing_is_lost(of_owner: Client, owner: Owner) -> None:
    path = f"/v1/campaigns/{of_owner.make('/v1/campaigns', campaign(owner)).json()['campaign_id']}"
    seen = of_owner.get(f"{path}/content").json()
    edit = {name: value for name, value in seen.items() if name != "campaign_id"}
    first = of_owner.put(path, json={**edit, "subject": "First"})
    assert (first.status_code, first.json()["version"]) == (200, 2)
    second = of_owner.put(path, json={**edit, "subject": "Second"})
    assert second.status_code == 409
    assert "is at version 2" in second.json()["detail"]
    assert of_owner.get(f"{path}/content").json()["subject"] == "First"


def test_an_owner_sees_only_his_own(api: Api, of_owner: Client, owner: Owner, operator: Client) -> None:
    other = api.owner()
    theirs = operator.make("/v1/campaigns", campaign(other)).json()["campaign_id"]
    mine = of_owner.make("/v1/campaigns", campaign(owner)).json()["campaign_id"]
    assert [one["campaign_id"] for one in of_owner.get("/v1/campaigns").json()["items"]] == [mine]
    assert [one["sender_id"] for one in of_owner.get("/v1/senders").json()["items"]] == [owner.sender_id]
    assert [one["user_id"] for one in of_owner.get("/v1/users").json()["items"]] == [owner.user_id]
    path = f"/v1/campaigns/{theirs}"
    for ask in (
        lambda: of_owner.get(path),
        lambda: of_owner.get(f"{path}/content"),
        lambda: of_owner.get(f"{path}/plan"),
        lambda: of_owner.get(f"{path}/watch"),
        lambda: of_owner.get(f"{path}/recipients"),
        lambda: of_owner.get(f"{path}/export"),
        lambda: of_owner.get(f"{path}/leads/1/explanation"),
        lambda: of_owner.put(path, json=campaign(owner, version=1)),
        lambda: of_owner.post(f"{path}/queue"),
        lambda: of_owner.post(f"{path}/pause"),
        lambda: of_owner.post(f"{path}/resume"),
        lambda: of_owner.post(f"{path}/cancel"),
        lambda: of_owner.make(f"{path}/clone", {}),
        lambda: of_owner.make(f"{path}/test", {"to": "me@example.com", "as_lead": 1}),
    ):
        answer = ask()
        assert (answer.status_code, answer.json()["detail"]) == (404, f"campaign {theirs} does not exist")
    borrowed = of_owner.make("/v1/campaigns", campaign(other))
    assert (borrowed.status_code, borrowed.json()["errors"][0]["field"]) == (422, "body.sender_id")
    assert of_owner.get("/v1/addresses/history", params={"address": "a@example.com"}).status_code == 403


def test_a_reader_changes_nothing(reader: Client, operator: Client, owner: Owner) -> None:
    made = operator.make("/v1/campaigns", campaign(owner)).json()["campaign_id"]
    assert reader.get(f"/v1/campaigns/{made}").status_code == 200
    for answer in (
        reader.make("/v1/campaigns", campaign(owner)),
        reader.post(f"/v1/campaigns/{made}/queue"),
        reader.make("/v1/leads", {"leads": [{"email": "a@example.com"}]}),
        reader.make("/v1/suppressions", {"address": "a@example.com"}),
        reader.get("/v1/audit"),
    ):
        assert answer.status_code == 403
    assert operator.get(f"/v1/campaigns/{made}").json()["status"] == "draft"


def test_pages_hold_every_campaign_once(of_owner: Client, owner: Owner) -> None:
    made = [of_owner.make("/v1/campaigns", campaign(owner)).json()["campaign_id"] for _ in range(5)]
    found, after, pages = [], None, 0
    while pages == 0 or after is not None:
        params = {"limit": 2, **({"after": after} if after else {})}
        page = of_owner.get("/v1/campaigns", params=params).json()
        found += [one["campaign_id"] for one in page["items"]]
        after, pages = page["next"], pages + 1
    assert (found, pages) == (made[::-1], 3)


def test_a_clone_says_the_same_and_is_a_draft(of_owner: Client, owner: Owner) -> None:
    made = of_owner.make("/v1/campaigns", campaign(owner, subject="Same")).json()["campaign_id"]
    copy = of_owner.make(f"/v1/campaigns/{made}/clone", {"name": "Twin"}).json()
    assert (copy["name"], copy["status"], copy["campaign_id"] != made) == ("Twin", "draft", True)
    assert of_owner.get(f"/v1/campaigns/{copy['campaign_id']}/content").json()["subject"] == "Same"


def test_a_plan_counts_and_shows_and_changes_nothing(api: Api, of_owner: Client, owner: Owner) -> None:
    city = seed_leads(api.engine, numbered(3))
    made = of_owner.make("/v1/campaigns", campaign(owner, condition=in_city(city))).json()["campaign_id"]
    plan = of_owner.get(f"/v1/campaigns/{made}/plan", params={"samples": 2}).json()
    assert (plan["eligible"], plan["calls"], len(plan["samples"])) == (3, 1, 2)
    assert plan["samples"][0]["subject"] == "Hello Ada"
    assert of_owner.get(f"/v1/campaigns/{made}").json()["status"] == "draft"


def test_a_test_message_is_sent_once_and_counts_for_nobody(api: Api, of_owner: Client, owner: Owner) -> None:
    city = seed_leads(api.engine, numbered(1))
    made = of_owner.make("/v1/campaigns", campaign(owner, condition=in_city(city))).json()["campaign_id"]
    plan = of_owner.get(f"/v1/campaigns/{made}/plan").json()
    body, key = {"to": "me@example.com", "as_lead": plan["samples"][0]["lead_id"]}, str(uuid4())
    first = of_owner.make(f"/v1/campaigns/{made}/test", body, key).json()
    assert (first["status"], first["subject"]) == ("accepted", "[Test] Hello Ada")
    again = of_owner.make(f"/v1/campaigns/{made}/test", body, key)
    assert again.json()["provider_message_id"] == first["provider_message_id"]
    with api.engine.connect() as connection:
        calls = select(func.count()).where(send_call.c.campaign_id == made)
        assert connection.execute(calls).scalar_one() == 0
    nobody = of_owner.make(f"/v1/campaigns/{made}/test", {**body, "as_lead": 2**62}, str(uuid4()))
    assert (nobody.status_code, f"no lead {2**62}" in nobody.json()["detail"]) == (422, True)


def test_a_watch_shows_each_change_until_the_end(api: Api, of_owner: Client, owner: Owner) -> None:
    made = of_owner.make("/v1/campaigns", campaign(owner)).json()["campaign_id"]
    seen: list[str] = []
    with of_owner.stream("GET", f"/v1/campaigns/{made}/watch", params={"every_seconds": 0.2}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event: "):
                seen.append(line.removeprefix("event: "))
                if seen == ["state"]:
                    assert of_owner.post(f"/v1/campaigns/{made}/cancel").status_code == 200
    assert seen == ["state", "state", "end"]
