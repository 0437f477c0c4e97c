"""Who may use the API, how often, and what is written down of it."""

from __future__ import annotations

from uuid import uuid4

import httpx
import pytest
from sqlalchemy import select, text, update

from email_platform.adapters.postgres.api_keys import PostgresApiKeys
from email_platform.adapters.postgres.api_requests import PostgresApiRequests, RequestName
from email_platform.adapters.postgres.tables import api_audit, api_key, api_request
from email_platform.errors import CommandRefusedError, ConflictError
from tests.integration.api.conftest import Api, Client, Owner, campaign, served
from tests.integration.campaign_rows import unique

pytestmark = pytest.mark.integration


def test_a_key_is_kept_as_its_hash_only(api: Api) -> None:
    made = PostgresApiKeys(api.engine).add("app", "operator", None)
    with api.engine.connect() as connection:
        row = connection.execute(select(api_key).where(api_key.c.id == made.api_key.key_id)).one()
    assert made.secret not in str(row)
    assert made.secret not in repr(made)
    assert made.secret.startswith(row.prefix)


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer nobody", "Basic YTpi", f"Bearer {'x' * 5000}", "Bearer \xff\xfe"],
)
def test_whoever_has_no_key_gets_401_and_nothing_else(api: Api, header: str | None) -> None:
    headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
    answer = httpx.get(f"{api.url}/v1/campaigns", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "api-key add" in answer.json()["mend"]


def test_a_body_is_not_read_before_the_key_is_known(api: Api) -> None:
    answer = httpx.post(f"{api.url}/v1/campaigns", content=b"no json", headers={"Authorization": "Bearer nobody"})
    assert answer.status_code == 401


def test_a_revoked_key_does_nothing_more(api: Api) -> None:
    keys = PostgresApiKeys(api.engine)
    made = keys.add("app", "reader", None)
    with api.client(made.secret) as client:
        assert client.get("/v1/campaigns").status_code == 200
        keys.revoke(made.api_key.key_id)
        assert client.get("/v1/campaigns").status_code == 401
    with pytest.raises(CommandRefusedError, match="api-key list"):
        keys.revoke(2**62)


def test_a_key_that_has_used_up_its_rate_waits_and_no_other_does(api: Api) -> None:
    settings = api.settings.model_copy(update={"api_requests_per_second": 0.01, "api_burst_requests": 3})
    with served(settings) as url:
        slow = Api(url, api.engine, settings)
        with slow.client(slow.key("reader")) as busy, slow.client(slow.key("reader")) as other:
            answers = [busy.get("/v1/users") for _ in range(4)]
            assert [one.status_code for one in answers] == [200, 200, 200, 429]
            assert 90 <= int(answers[-1].headers["retry-after"]) <= 100
            assert other.get("/v1/users").status_code == 200


@pytest.mark.parametrize(
    ("role", "user"), [("owner", None), ("operator", "a@example.com"), ("reader", "n@example.com")]
)
def test_a_role_without_its_user_is_refused(api: Api, role: str, user: str | None) -> None:
    with pytest.raises(CommandRefusedError, match="user"):
        PostgresApiKeys(api.engine).add("app", role, user)  # type: ignore[arg-type]


def test_a_reader_of_one_user_sees_his_only(api: Api, operator: Client, owner: Owner) -> None:
    operator.make("/v1/campaigns", campaign(api.owner()))
    mine = operator.make("/v1/campaigns", campaign(owner)).json()["campaign_id"]
    with api.client(api.key("reader", owner.email)) as client:
        assert [one["campaign_id"] for one in client.get("/v1/campaigns").json()["items"]] == [mine]
        assert client.post(f"/v1/campaigns/{mine}/cancel").status_code == 403


def test_the_audit_log_says_who_did_what_refused_or_not(
    of_owner: Client, reader: Client, operator: Client, owner: Owner
) -> None:
    made = of_owner.make("/v1/campaigns", campaign(owner)).json()["campaign_id"]
    assert reader.post(f"/v1/campaigns/{made}/queue").status_code == 403
    assert of_owner.post(f"/v1/campaigns/{made}/queue", json={"at": "tomorrow"}).status_code == 422
    assert of_owner.get("/v1/campaigns").status_code == 200
    entries = operator.get("/v1/audit", params={"limit": 3}).json()["items"]
    assert [(one["method"], one["path"], one["status"]) for one in entries] == [
        ("POST", f"/v1/campaigns/{made}/queue", 422),
        ("POST", f"/v1/campaigns/{made}/queue", 403),
        ("POST", "/v1/campaigns", 201),
    ]
    assert len({one["key_name"] for one in entries}) == 2


def test_a_request_whose_end_nobody_knows_is_not_done_again(api: Api) -> None:
    """Its process died after the message went to the provider and before the answer was kept."""
    key = PostgresApiKeys(api.engine).add("app", "operator", None)
    requests = PostgresApiRequests(api.engine)
    name = RequestName(key.api_key.key_id, str(uuid4()), b"digest")
    assert requests.begin(name) is None
    with pytest.raises(ConflictError, match="nobody knows whether it was done"):
        requests.begin(name)
    requests.abandon(name)
    assert requests.begin(name) is None
    requests.end(name, 200, {"status": "accepted"})
    requests.abandon(name)  # too late: it was done
    assert requests.begin(name) == (200, {"status": "accepted"})


def test_an_idempotency_key_is_forgotten_after_three_days(api: Api, of_owner: Client, owner: Owner) -> None:
    body, key = campaign(owner), str(uuid4())
    first = of_owner.make("/v1/campaigns", body, key).json()
    with api.engine.begin() as connection:
        connection.execute(
            update(api_request)
            .where(api_request.c.idempotency_key == key)
            .values(created_at=text("now() - interval '73 hours'"))
        )
    again = of_owner.make("/v1/campaigns", body, key).json()
    assert again["campaign_id"] != first["campaign_id"]


def test_an_entry_of_the_audit_log_is_there_before_the_answer(api: Api) -> None:
    key = PostgresApiKeys(api.engine).add(unique("app"), "operator", None)
    entry = PostgresApiRequests(api.engine).note(key.api_key.key_id, "POST", "/v1/leads")
    with api.engine.connect() as connection:
        assert connection.execute(select(api_audit.c.status).where(api_audit.c.id == entry)).scalar_one() is None
