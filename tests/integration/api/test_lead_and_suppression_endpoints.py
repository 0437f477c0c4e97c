"""Leads and suppressions over HTTP: whatever cannot be kept is named, and stops nothing else."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from email_platform.adapters.postgres.tables import lead, suppression
from tests.integration.api.conftest import Api, Client, Owner
from tests.integration.campaign_rows import unique

pytestmark = pytest.mark.integration


def leads_with(api: Api, address: str) -> list[Any]:
    with api.engine.connect() as connection:
        return list(connection.execute(select(lead).where(func.lower(lead.c.email) == address.lower())))


def test_leads_are_added_and_changed_and_what_is_left_out_stays(api: Api, operator: Client) -> None:
    address = f"{unique('lead')}@example.com"
    first = operator.make(
        "/v1/leads", {"leads": [{"email": address, "first_name": "Ada", "attributes": {"orders": 3, "vip": True}}]}
    )
    assert (first.status_code, first.json()["added"]) == (200, 1)
    second = operator.make(
        "/v1/leads", {"leads": [{"email": address.upper(), "city": "Paris", "attributes": {"orders": 4}}]}
    )
    assert (second.json()["added"], second.json()["changed"]) == (0, 1)
    (row,) = leads_with(api, address)
    assert (row.first_name, row.city, row.attributes) == ("Ada", "Paris", {"orders": 4, "vip": True})


def test_a_lead_that_cannot_be_kept_stops_no_other(api: Api, operator: Client) -> None:
    good = f"{unique('lead')}@example.com"
    answer = operator.make(
        "/v1/leads",
        {
            "leads": [
                {"email": "nobody"},
                {"email": good},
                {"email": good},
                {"email": "a@example.com", "country": "Germany"},
                {"email": "b@example.com", "age": 200},
                {"email": "c@example.com", "attributes": {"has space": 1}},
                {"email": "d@example.com", "attributes": {"text": "a\0b"}},
                {"email": "e@example.com", "first_name": "a\0b"},
            ]
        },
    ).json()
    assert (answer["added"], answer["repeated"]) == (1, [2])
    assert [one["index"] for one in answer["rejected"]] == [0, 3, 4, 5, 6, 7]
    assert "two letters" in answer["rejected"][1]["problem"]
    assert len(leads_with(api, good)) == 1


def test_repeated_leads_get_the_first_answer(operator: Client) -> None:
    body, key = {"leads": [{"email": f"{unique('lead')}@example.com"}]}, str(uuid4())
    first = operator.make("/v1/leads", body, key)
    again = operator.make("/v1/leads", body, key)
    assert (first.json(), "Idempotent-Replayed" in again.headers) == (again.json(), True)
    assert again.json()["added"] == 1


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b'{"leads": [{"email": "a@example.com", "age": NaN}]}', "body"),
        (b'{"leads": [{"email": "\\ud800"}]}', "body"),
        (b'{"leads": ' + b"[" * 5000, "body"),
        (b'{"leads": []}', "body.leads"),
        (b'{"leads": [{"email": "a@example.com", "shoe": 42}]}', "body.leads.0.shoe"),
        (b'{"leads": [{"email": 7}]}', "body.leads.0.email"),
        (b"", "body"),
    ],
)
def test_what_is_no_list_of_leads_is_named(operator: Client, content: bytes, field: str) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid4())}
    answer = operator.post("/v1/leads", content=content, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith(field)
    assert answer.json()["errors"][0]["mend"]


def test_a_create_without_an_idempotency_key_is_refused(operator: Client) -> None:
    answer = operator.post("/v1/leads", json={"leads": [{"email": "a@example.com"}]})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "header.Idempotency-Key")


def test_a_body_that_is_too_large_is_refused(operator: Client) -> None:
    answer = operator.post(
        "/v1/leads", content=b" " * (13 << 20), headers={"Content-Type": "application/json", "Idempotency-Key": "x"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")


def test_an_address_is_suppressed_once(api: Api, operator: Client) -> None:
    address = f"{unique('Gone')}@Example.com"
    first = operator.make("/v1/suppressions", {"address": address, "reason": "complaint"})
    assert (first.status_code, first.json()["is_new"]) == (201, True)
    assert operator.make("/v1/suppressions", {"address": address.upper()}).json()["is_new"] is False
    (found,) = operator.get("/v1/suppressions", params={"address": address}).json()["items"]
    assert (found["address"], found["sender_id"], found["reason"]) == (address.lower(), None, "complaint")
    with api.engine.connect() as connection:
        rows = select(func.count()).where(suppression.c.address == address.lower())
        assert connection.execute(rows).scalar_one() == 1


def test_an_owner_suppresses_for_his_own_senders_only(api: Api, of_owner: Client, owner: Owner) -> None:
    address = f"{unique('gone')}@example.com"
    for body in ({"address": address}, {"address": address, "sender_id": api.owner().sender_id}):
        refused = of_owner.make("/v1/suppressions", body)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "body.sender_id")
    assert of_owner.make("/v1/suppressions", {"address": address, "sender_id": owner.sender_id}).status_code == 201
    assert [one["address"] for one in of_owner.get("/v1/suppressions").json()["items"]] == [address]


def test_no_address_is_refused_with_the_mend(operator: Client) -> None:
    answer = operator.make("/v1/suppressions", {"address": "nobody"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "body.address")


def test_an_address_is_explained_over_all_campaigns(operator: Client) -> None:
    address = f"{unique('gone')}@example.com"
    operator.make("/v1/suppressions", {"address": address})
    history = operator.get("/v1/addresses/history", params={"address": address}).json()
    assert [one["reason"] for one in history["suppressions"]] == ["manual"]
    assert history["leads"] == []


def test_a_person_is_erased_and_neither_the_answer_nor_the_audit_log_holds_the_address(
    api: Api, operator: Client, of_owner: Client
) -> None:
    address = f"{unique('erased')}@Example.com"
    added = operator.make("/v1/leads", {"leads": [{"email": address}]})
    assert added.json()["added"] == 1
    refused = of_owner.post("/v1/erasures", json={"address": address})
    assert refused.status_code == 403
    answer = operator.post("/v1/erasures", json={"address": f" {address.upper()}\t"})
    document = answer.json()
    assert (answer.status_code, document["state"], document["removed"]) == (202, "under way", {"leads": 1})
    assert operator.get(f"/v1/erasures/{document['erasure']}").json() == document
    newest = operator.get("/v1/audit", params={"limit": 1}).json()["items"][0]
    assert (newest["path"], newest["status"]) == (f"/v1/erasures/{document['erasure']}", 202)
    assert address.lower() not in (answer.text + str(newest)).lower()
    again = operator.make("/v1/leads", {"leads": [{"email": address.lower()}]}).json()
    assert (again["added"], [one["index"] for one in again["rejected"]]) == (0, [0])
    no_address = operator.post("/v1/erasures", json={"address": "ann"})
    assert (no_address.status_code, no_address.json()["errors"][0]["field"]) == (422, "body.address")
    assert operator.get(f"/v1/erasures/erased-{'0' * 40}@erased.invalid").status_code == 404
