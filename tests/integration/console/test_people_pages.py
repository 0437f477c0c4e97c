"""Senders, users and leads in the console: what the command line does, with the same checks."""

from __future__ import annotations

import html

import httpx
import pytest
from sqlalchemy import select

from email_platform.adapters.postgres.tables import lead
from email_platform.console import visit
from tests.integration.api.conftest import Api, Owner
from tests.integration.campaign_rows import unique
from tests.integration.console.conftest import Visitor, campaign_form

pytestmark = pytest.mark.integration
SENDERS, LEADS = "/console/senders", "/console/leads"


def test_a_user_and_a_sender_are_made_once_listed_and_asked_about(operator: Visitor) -> None:
    email, address = f"{unique('ann')}@example.com", f"{unique('news')}@example.com"
    user = {**operator.hidden(SENDERS), "email": email, "name": "Ann <b>"}
    assert [operator.post("/console/users", data=user).status_code for _ in range(2)] == [303, 303]
    sender = {
        "owner": email, "from_address": address, "from_name": "The shop", "reply_to": "", "provider": "simulator",
        "provider_account": "default",
    }  # fmt: skip
    hidden = operator.hidden(SENDERS)
    assert [operator.post(SENDERS, data={**hidden, **sender}).status_code for _ in range(2)] == [303, 303]
    page = operator.get(SENDERS).text
    assert (page.count(f"<bdi>{address}</bdi>"), "Ann &lt;b&gt;" in page) == (1, True)
    row = page[: page.index(address)].rsplit('<td class="number">', 1)[1]
    asked = operator.send_form(SENDERS, f"{SENDERS}/{row.partition('<')[0]}/verify", {})
    assert "<b>not known</b>" in asked.text
    again = operator.send_form(SENDERS, SENDERS, sender)
    assert (again.status_code, "sends from" in again.text, f'value="{address}"' in again.text) == (422, True, True)
    wrong = operator.send_form(SENDERS, SENDERS, {**sender, "from_address": "é@b.example"})
    assert 'href="#from_address"' in wrong.text
    assert operator.send_form(SENDERS, f"{SENDERS}/{10**30}/verify", {}).status_code == 404


def test_only_operators_make_people_and_an_owner_asks_about_his_own(
    api: Api, of_owner: Visitor, reader: Visitor, owner: Owner
) -> None:
    other = api.owner()
    page = of_owner.get(SENDERS).text
    assert f">{owner.sender_id}</td>" in page
    assert f">{other.sender_id}</td>" not in page
    assert "Add a sender" not in page
    assert of_owner.send_form(SENDERS, f"{SENDERS}/{owner.sender_id}/verify", {}).status_code == 200
    assert of_owner.send_form(SENDERS, f"{SENDERS}/{other.sender_id}/verify", {}).status_code == 404
    hidden = of_owner.hidden(SENDERS)
    for path in (SENDERS, "/console/users"):
        assert of_owner.post(path, data={**hidden, "email": "a@example.com", "name": "A"}).status_code == 403
    assert of_owner.get(LEADS).status_code == 403
    assert of_owner.post(LEADS, data=hidden, files={"file": ("a.csv", b"email\n")}).status_code == 403
    assert "Ask</button>" not in reader.get(SENDERS).text


def test_a_file_of_leads_is_checked_then_imported_and_each_row_is_accounted_for(api: Api, operator: Visitor) -> None:
    city = unique("city")
    content = f"E-Mail,city,points\n{city}1@example.com,{city},7\nnobody,{city},7\n{city}1@example.com,{city},8\n"
    fields = {"map": "E-Mail=email\n", "numbers": "points", "dry_run": "on"}
    checked = _upload(operator, content.encode(), fields)
    assert (checked.status_code, "Nothing was changed" in checked.text, _leads(api, city)) == (200, True, [])
    imported = html.unescape(_upload(operator, content.encode(), {**fields, "dry_run": ""}).text)
    assert "Nothing was changed" in imported, "a box that is there is ticked, whatever its value"
    fields.pop("dry_run")
    imported = html.unescape(_upload(operator, content.encode(), fields).text)
    assert "1 leads added, 0 changed" in imported
    assert "not used: 4" in imported
    assert "3,email: no address that can be mailed" in imported
    assert _leads(api, city) == [(f"{city}1@example.com", {"points": 7})]


@pytest.mark.parametrize(
    ("content", "fields", "problem"),
    [
        (b"name\nAnn\n", {}, "no column means `email`"),
        (b"", {}, "is empty; its first line must name the columns"),
        (b"email\n\xff\xfe\n", {}, "is no UTF-8"),
        (b"email\n", {"map": "Name"}, "has a line without a meaning"),
        (b"email\n", {"map": "Name=email"}, "there is no column 'Name'"),
        (b"email\n", {"numbers": "points"}, "there is no column 'points' to read as a number"),
        (b"PAR1", {"name": "a.parquet"}, "is no Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_what_is_wrong(
    operator: Visitor, content: bytes, fields: dict[str, str], problem: str
) -> None:
    name = fields.pop("name", "leads.csv")
    refused = _upload(operator, content, fields, name)
    assert (refused.status_code, problem in html.unescape(refused.text)) == (422, True), refused.text


def test_without_a_file_or_with_one_that_is_too_large_nothing_is_read(
    operator: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = operator.post(LEADS, data=operator.hidden(LEADS), files={"file": ("", b"")})
    assert (missing.status_code, "Choose a CSV or Parquet file" in missing.text) == (422, True)
    assert operator.post(LEADS, data=operator.hidden(LEADS)).status_code == 415
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert operator.post(LEADS, content=b"no part of it", headers=broken).status_code == 400
    forged = operator.post(LEADS, data={"form_token": "x"}, files={"file": ("a.csv", b"email\n")})
    assert forged.status_code == 403
    monkeypatch.setattr(visit, "LARGEST_UPLOAD_BYTES", 10_000)
    large = _upload(operator, b"email\n" + b"a" * 20_000, {})
    assert (large.status_code, "email-platform lead import FILE" in large.text) == (413, True)


def test_a_campaign_is_previewed_before_it_is_saved(api: Api, of_owner: Visitor, owner: Owner) -> None:
    page = "/console/campaigns/new"
    assert 'formaction="/console/campaigns/new/preview"' in of_owner.get(page).text
    with api.engine.begin() as connection:
        lead_id = connection.execute(
            lead.insert().values(email=f"{unique('ada')}@example.com", first_name="Ada").returning(lead.c.id)
        ).scalar_one()
    form = campaign_form(owner, lead=str(lead_id))
    shown = of_owner.send_form(page, f"{page}/preview", form)
    assert (shown.status_code, "Hello Ada" in shown.text) == (200, True)
    assert "sandbox" in shown.headers["content-security-policy"]
    of_other = of_owner.send_form(page, f"{page}/preview", {**form, "sender_id": str(api.owner().sender_id)})
    assert "There is no message" in of_other.text
    wrong = of_owner.send_form(page, f"{page}/preview", {**form, "html": "{{ oops"})
    assert "There is no message" in wrong.text
    assert "No campaign" in of_owner.get("/console/").text or "Spring" not in of_owner.get("/console/").text


@pytest.mark.parametrize("written", ["²", "1.0", "-1", "9" * 30, "x", ""])
def test_a_page_number_that_is_none_is_the_first_page(operator: Visitor, written: str) -> None:
    for path in ("/console/", "/console/audit", "/console/suppressions"):
        assert operator.get(path, params={"after": written, "owner": written}).status_code == 200, path


def _upload(browser: Visitor, content: bytes, fields: dict[str, str], name: str = "leads.csv") -> httpx.Response:
    return browser.post(LEADS, data={**browser.hidden(LEADS), **fields}, files={"file": (name, content)})


def _leads(api: Api, city: str) -> list[tuple[str, object]]:
    with api.engine.connect() as connection:
        rows = connection.execute(select(lead.c.email, lead.c.attributes).where(lead.c.city == city))
        return [(row.email, row.attributes) for row in rows]
