"""Users and senders over the API: made once, checked as on the command line, asked about at the provider."""

from __future__ import annotations

import pytest

from tests.integration.api.conftest import Api, Client, Owner
from tests.integration.campaign_rows import unique

pytestmark = pytest.mark.integration


def test_a_user_and_his_sender_are_made_once_and_kept_as_they_are_mailed(operator: Client) -> None:
    email, address = f"{unique('ann')}@example.com", f"{unique('news')}@Bücher.example"
    made = operator.make("/v1/users", {"email": f" {email}\t", "name": "Ann"})
    assert (made.status_code, made.json()["email"]) == (201, email)
    again = operator.make("/v1/users", {"email": email, "name": "Ann"})
    assert (again.status_code, again.json()["errors"][0]["field"]) == (422, "body.email")
    body = {"owner": email, "from_address": address, "from_name": "The shop", "reply_to": email}
    sender = operator.make("/v1/senders", body, key="the-same")
    assert sender.status_code == 201
    assert sender.json()["from_address"] == address.replace("Bücher", "xn--bcher-kva")
    assert sender.json()["owner_id"] == made.json()["user_id"]
    assert operator.make("/v1/senders", body, key="the-same").json() == sender.json()
    refused = operator.make("/v1/senders", body)
    assert (refused.status_code, f"sender {sender.json()['sender_id']} " in refused.json()["detail"]) == (409, True)
    before = sender.json()["sender_id"] - 1
    (listed,) = operator.get("/v1/senders", params={"after": before} if before else {}).json()["items"]
    assert listed == sender.json()


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"owner": "nobody"}, "body.owner"),
        ({"from_address": "news@localhost"}, "body.from_address"),
        ({"from_address": "é@example.com"}, "body.from_address"),
        ({"reply_to": "a@b"}, "body.reply_to"),
        ({"provider": "carrier pigeon"}, "body.provider"),
        ({"provider_account": "a b"}, "body.provider_account"),
        ({"from_name": ""}, "body.from_name"),
    ],
)
def test_a_wrong_value_is_named(operator: Client, owner: Owner, changed: dict[str, str], field: str) -> None:
    body = {"owner": owner.email, "from_address": f"{unique('a')}@example.com", "from_name": "A", **changed}
    refused = operator.make("/v1/senders", body)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    assert refused.json()["errors"][0]["mend"]


def test_an_owner_who_is_not_there_is_named_and_nothing_is_made(operator: Client) -> None:
    missing, address = f"{unique('nobody')}@example.com", f"{unique('a')}@example.com"
    refused = operator.make("/v1/senders", {"owner": missing, "from_address": address, "from_name": "A"})
    assert (refused.status_code, missing in refused.json()["detail"]) == (409, True)


def test_only_an_operator_makes_them_and_whoever_may_use_a_sender_asks_about_it(
    api: Api, of_owner: Client, reader: Client, owner: Owner
) -> None:
    other = api.owner()
    for client in (of_owner, reader):
        body = {"owner": owner.email, "from_address": "a@example.com", "from_name": "A"}
        assert client.make("/v1/senders", body).status_code == 403
        assert client.make("/v1/users", {"email": "a@example.com", "name": "A"}).status_code == 403
    asked = of_owner.post(f"/v1/senders/{owner.sender_id}/verify")
    assert (asked.status_code, asked.json()["verdict"]) == (200, "unknown"), "the simulator cannot be asked"
    assert of_owner.post(f"/v1/senders/{other.sender_id}/verify").status_code == 404
    assert reader.post(f"/v1/senders/{owner.sender_id}/verify").status_code == 403
