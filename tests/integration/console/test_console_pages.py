"""The console over HTTP, on the real parts: logins, forgeries, roles, hostile names, two editors at once."""

from __future__ import annotations

import json
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import insert, select, update

from email_platform.adapters.postgres.api_keys import PostgresApiKeys
from email_platform.adapters.postgres.tables import api_audit, lead
from email_platform.adapters.postgres.tables import campaign as campaign_table
from tests.integration.api.conftest import Api, Owner, served
from tests.integration.campaign_rows import in_city, numbered, seed_leads, unique
from tests.integration.console.conftest import Visitor, campaign_form, made, visitor

pytestmark = pytest.mark.integration

SCRIPT = "<script>alert(1)</script>"


def test_without_a_login_there_is_the_login_only_and_it_leads_back(api: Api) -> None:
    with visitor(api) as browser:
        assert browser.get("/console").headers["location"] == "/console/"
        asked = browser.get("/console/campaigns/17/plan?x=1")
        assert (asked.status_code, asked.headers["location"]) == (
            303,
            f"/console/login?next={quote('/console/campaigns/17/plan?x=1', safe='')}",
        )
        polled = browser.get("/console/rows", headers={"HX-Request": "true"})
        assert (polled.status_code, polled.headers["hx-redirect"]) == (401, "/console/login")
        wrong = browser.log_in("ep_nobody")
        assert (wrong.status_code, "Nobody has this API key" in wrong.text) == (401, True)
        key = api.key("reader")
        right = browser.log_in(key, next="/console/suppressions")
        assert (right.status_code, right.headers["location"]) == (303, "/console/suppressions")
        assert key not in right.headers["set-cookie"]
        assert "HttpOnly" in right.headers["set-cookie"]
        assert browser.get("/console/").status_code == 200
        out = browser.send_form("/console/", "/console/logout", {})
        assert out.headers["location"] == "/console/login"
        assert browser.get("/console/").status_code == 303


def test_a_revoked_key_ends_its_sessions(api: Api) -> None:
    keys = PostgresApiKeys(api.engine)
    key = keys.add(unique("key"), "operator", None)
    with visitor(api) as browser:
        browser.log_in(key.secret)
        assert browser.get("/console/").status_code == 200
        keys.revoke(key.api_key.key_id)
        assert browser.get("/console/").status_code == 303
        assert browser.post("/console/suppressions", data={"address": "a@example.com"}).status_code == 401


def test_every_answer_keeps_scripts_and_frames_out(operator: Visitor) -> None:
    for path in ("/console/", "/console/login", "/console/nowhere", "/console/static/console.css"):
        answer = operator.get(path)
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "script-src 'self';" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert operator.get("/console/nowhere").status_code == 404
    assert operator.get("/console/static/../app.py").status_code == 404


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Origin": "https://evil.example"}, "good"),
        ({"Origin": "null"}, "good"),
        ({"Sec-Fetch-Site": "cross-site"}, "good"),
        ({}, ""),
        ({}, "wrong"),
        ({}, "another"),
    ],
)
def test_a_forged_form_changes_nothing(
    api: Api, of_owner: Visitor, owner: Owner, headers: dict[str, str], token: str
) -> None:
    path = made(of_owner, owner)
    with visitor(api) as other:
        another = other.hidden("/console/login")["form_token"]
    sent = of_owner.hidden(path)
    sent["form_token"] = {"good": sent["form_token"], "another": another}.get(token, token)
    answer = of_owner.post(f"{path}/queue", data=sent, headers=headers)
    assert answer.status_code == 403
    assert "Load the page again" in answer.text
    with api.engine.connect() as connection:
        status = select(campaign_table.c.status).where(campaign_table.c.id == int(path.rsplit("/", 1)[1]))
        assert connection.execute(status).scalar_one() == "draft"


def test_a_login_is_not_forged_either(api: Api) -> None:
    with visitor(api) as browser:
        answer = browser.post("/console/login", data={"api_key": api.key("reader")})
        assert answer.status_code == 403
        assert browser.get("/console/").status_code == 303


def test_a_reader_looks_and_changes_nothing(api: Api, reader: Visitor, operator: Visitor, owner: Owner) -> None:
    path = made(operator, owner)
    page = reader.get(path)
    assert page.status_code == 200
    assert "<button" not in page.text.replace('<button class="plain">Log out', "").replace("<button>Show", "")
    for part in ("plan", "report", "recipients", "explanation?lead=1", "unknown"):
        assert reader.get(f"{path}/{part}").status_code == 200, part
    assert reader.get("/console/campaigns/new").status_code == 403
    assert reader.get(f"{path}/edit").status_code == 403
    assert reader.get("/console/audit").status_code == 403
    token = {"form_token": reader.hidden("/console/")["form_token"], "form_name": "x"}
    for action in ("queue", "pause", "resume", "cancel", "copy", "test", "unknown", "edit", "preview"):
        assert reader.post(f"{path}/{action}", data=token).status_code == 403, action
    assert reader.post("/console/suppressions", data={**token, "address": "a@example.com"}).status_code == 403
    assert reader.post("/console/suppressions/1/lift", data={**token, "why": "x"}).status_code == 403


def test_an_owner_sees_only_his_own(api: Api, of_owner: Visitor, owner: Owner, operator: Visitor) -> None:
    theirs = made(operator, api.owner(), name="Not yours")
    mine = made(of_owner, owner, name="Mine alone")
    listed = of_owner.get("/console/").text
    assert ("Mine alone" in listed, "Not yours" in listed) == (True, False)
    for part in (
        "",
        "/progress",
        "/plan",
        "/report",
        "/report.html",
        "/recipients",
        "/explanation",
        "/unknown",
        "/edit",
    ):
        assert of_owner.get(f"{theirs}{part}").status_code == 404, part
    hidden = of_owner.hidden(mine)
    for action in ("queue", "pause", "resume", "cancel", "copy", "test", "unknown", "edit", "preview"):
        data = {**hidden, **campaign_form(owner), "version": "1", "sure": "yes", "as_lead": "1", "to": "me@example.com"}
        assert of_owner.post(f"{theirs}/{action}", data=data).status_code == 404, action
    everywhere = of_owner.send_form("/console/suppressions", "/console/suppressions", {"address": "a@example.com"})
    assert (everywhere.status_code, "Choose a sender of the list" in everywhere.text) == (422, True)


def test_a_campaign_goes_from_draft_to_cancelled_and_the_audit_log_says_who(
    api: Api, of_owner: Visitor, owner: Owner, operator: Visitor
) -> None:
    path = made(of_owner, owner)
    wrong = of_owner.send_form(path, f"{path}/queue", {"at": "2199-12-01T09:00", "zone": "Mars/Base"})
    assert (wrong.status_code, "no time zone" in wrong.text) == (422, True)
    of_owner.send_form(path, f"{path}/queue", {"at": "2199-12-01T09:00", "zone": "Europe/Berlin"})
    assert "waits for its time, 2199-12-01 08:00:00 UTC" in of_owner.get(path).text
    of_owner.send_form(path, f"{path}/pause", {"reason": "a typo"})
    assert "paused: by an operator: a typo" in of_owner.get(path).text
    of_owner.send_form(path, f"{path}/resume", {})
    unsure = of_owner.send_form(path, f"{path}/cancel", {})
    assert (unsure.status_code, "Tick it" in unsure.text) == (422, True)
    of_owner.send_form(path, f"{path}/cancel", {"sure": "yes"})
    page = of_owner.get(path).text
    assert '<span class="status cancelled">' in page
    ended = of_owner.get(f"{path}/progress?seen=cancelled")
    assert (ended.status_code, "hx-get" in ended.text, 'id="actions"' in ended.text) == (286, False, False)
    changed = of_owner.get(f"{path}/progress?seen=sending")
    assert (changed.status_code, 'id="actions"' in changed.text) == (200, True)
    again = of_owner.send_form(path, f"{path}/queue", {})
    assert (again.status_code, "it is final" in again.text) == (409, True)
    log = operator.get("/console/audit").text
    assert log.index(f"POST {path}/cancel") < log.index(f"POST {path}/pause") < log.index("POST /console/campaigns/new")
    with api.engine.connect() as connection:
        noted = select(api_audit.c.status).where(api_audit.c.path == f"{path}/cancel").order_by(api_audit.c.id)
        assert list(connection.execute(noted).scalars()) == [422, 303]


def test_a_second_press_makes_no_second_campaign(of_owner: Visitor, owner: Owner) -> None:
    form = {**of_owner.hidden("/console/campaigns/new"), **campaign_form(owner)}
    first, second = (of_owner.post("/console/campaigns/new", data=form) for _ in range(2))
    assert first.headers["location"] == second.headers["location"]
    changed = of_owner.post("/console/campaigns/new", data={**form, "name": "Another"})
    assert changed.headers["location"] != first.headers["location"]


def test_what_is_wrong_is_named_at_its_field_and_what_was_typed_stays(of_owner: Visitor, owner: Owner) -> None:
    typed = campaign_form(owner, name="Kept", condition='{"all": [{"field": "shoe", "op": "eq", "value": 1}]}')
    answer = of_owner.send_form("/console/campaigns/new", "/console/campaigns/new", typed)
    assert answer.status_code == 422
    assert '<a href="#condition">condition</a>' in answer.text
    assert 'id="condition-wrong"' in answer.text
    assert 'value="Kept"' in answer.text
    foreign = of_owner.send_form(
        "/console/campaigns/new", "/console/campaigns/new", {**typed, "sender_id": "999999999"}
    )
    assert "there is no sender 999999999. Choose a sender of the list" in foreign.text
    template = campaign_form(owner, html="<p>{{ oops</p>")
    answer = of_owner.send_form("/console/campaigns/new", "/console/campaigns/new", template)
    assert answer.status_code == 422
    assert "{{ oops" in answer.text


def test_the_second_of_two_editors_is_told_and_keeps_what_he_typed(of_owner: Visitor, owner: Owner) -> None:
    path = made(of_owner, owner)
    page = of_owner.hidden(f"{path}/edit")
    assert page["version"] == "1"
    first = of_owner.post(f"{path}/edit", data={**page, **campaign_form(owner, subject="First")})
    assert first.status_code == 303
    second = of_owner.post(f"{path}/edit", data={**page, **campaign_form(owner, subject="Second")})
    assert second.status_code == 409
    assert "Somebody else has saved this campaign" in second.text
    assert "First" in second.text
    assert 'value="Second"' in second.text
    assert 'name="version" value="2"' in second.text
    kept = of_owner.post(f"{path}/edit", data={**page, "version": "2", **campaign_form(owner, subject="Second")})
    assert kept.status_code == 303
    of_owner.send_form(path, f"{path}/cancel", {"sure": "yes"})
    assert of_owner.get(f"{path}/edit").status_code == 409


def test_names_and_templates_of_others_run_nowhere(api: Api, operator: Visitor, owner: Owner) -> None:
    hostile = f"{SCRIPT}\u202e\"'><img src=x onerror=alert(1)>"
    city = seed_leads(api.engine, [{"email": f"{unique('evil')}@example.com", "first_name": SCRIPT}])
    path = made(
        operator,
        owner,
        name=hostile,
        subject=f"{SCRIPT} {{{{ first_name }}}}",
        html=f"<p>Hi {{{{ first_name }}}}</p>{SCRIPT}<a href='{{{{ unsubscribe_url }}}}'>x</a>",
        condition=json.dumps(in_city(city)),
    )
    operator.send_form(path, f"{path}/queue", {"at": "2199-12-01T09:00", "zone": "UTC"})
    operator.send_form(path, f"{path}/pause", {"reason": hostile})
    with api.engine.connect() as connection:
        lead_id = connection.execute(select(lead.c.id).where(lead.c.city == city)).scalar_one()
    pages = ["/console/", "/console/rows", path]
    pages += [f"{path}/{part}" for part in ("progress", "plan", "report", "recipients", f"explanation?lead={lead_id}")]
    for page in pages:
        text = operator.get(page).text
        assert SCRIPT not in text, page
        assert "<img src=x" not in text, page
        assert "\u202e" not in text, page
    listed = operator.get("/console/", params={"name": hostile[:40]}).text
    assert SCRIPT not in listed
    preview = operator.get(f"{path}/preview?lead={lead_id}")
    assert preview.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert "frame-ancestors 'self'" in preview.headers["content-security-policy"]
    assert SCRIPT not in preview.text, "the message is in an attribute of a frame of its own"
    assert "&lt;script&gt;" in preview.text


def test_a_preview_shows_what_is_typed_without_saving_it(api: Api, of_owner: Visitor, owner: Owner) -> None:
    city = seed_leads(api.engine, numbered(1))
    with api.engine.connect() as connection:
        found = connection.execute(select(lead.c.id, lead.c.email).where(lead.c.city == city)).one()
    path = made(of_owner, owner)
    typed = {**of_owner.hidden(f"{path}/edit"), **campaign_form(owner, subject="Typed for {{ first_name }}")}
    shown = of_owner.post(f"{path}/preview", data={**typed, "lead": str(found.id)})
    assert (shown.status_code, "Typed for Ada" in shown.text, found.email in shown.text) == (200, True, True)
    assert "Hello Ada" in of_owner.get(f"{path}/preview", params={"lead": found.id}).text
    for lead_of, words in (("x", "whole number"), ("", "whole number"), (str(2**62), "there is no lead")):
        assert words in of_owner.post(f"{path}/preview", data={**typed, "lead": lead_of}).text
    broken = of_owner.post(f"{path}/preview", data={**typed, "html": "{{ oops", "lead": str(found.id)})
    assert "There is no message" in broken.text
    assert "whole number" in of_owner.get(f"{path}/preview", params={"lead": found.email}).text, "he may not look it up"


def test_a_test_message_is_sent_once_and_the_answer_is_shown(api: Api, of_owner: Visitor, owner: Owner) -> None:
    city = seed_leads(api.engine, numbered(1))
    with api.engine.connect() as connection:
        lead_id = connection.execute(select(lead.c.id).where(lead.c.city == city)).scalar_one()
    path = made(of_owner, owner)
    form = {**of_owner.hidden(path), "to": "me@example.com", "as_lead": str(lead_id)}
    first = of_owner.post(f"{path}/test", data=form)
    assert (first.status_code, "[Test] Hello Ada" in first.text) == (200, True)
    again = of_owner.post(f"{path}/test", data=form)
    assert "was not sent a second time" in again.text
    wrong = of_owner.post(f"{path}/test", data={**form, "to": "nobody"})
    assert (wrong.status_code, "no address that can be mailed" in wrong.text) == (422, True)


def test_a_suppression_is_added_found_and_lifted_with_who_did_it(
    of_owner: Visitor, owner: Owner, operator: Visitor
) -> None:
    address = f"{unique('gone')}@example.com"
    wrong = of_owner.send_form(
        "/console/suppressions", "/console/suppressions", {"address": "nobody", "sender_id": str(owner.sender_id)}
    )
    assert (wrong.status_code, 'id="address-wrong"' in wrong.text) == (422, True)
    added = of_owner.send_form(
        "/console/suppressions",
        "/console/suppressions",
        {"address": f" {address.upper()} ", "sender_id": str(owner.sender_id), "reason": "manual"},
    )
    assert added.status_code == 303
    page = operator.get(added.headers["location"]).text
    assert address in page
    assert "console: key-" in page
    suppression_id = page.split("/console/suppressions/")[1].split("/lift")[0]
    path = f"/console/suppressions/{suppression_id}/lift"
    hidden = operator.hidden("/console/suppressions")
    assert operator.post(path, data=hidden).status_code == 422
    lifted = operator.post(path, data={**hidden, "why": "asked <b>us</b>"})
    assert lifted.status_code == 303
    page = operator.get(lifted.headers["location"]).text
    assert "This address is not suppressed" in page
    assert "asked &lt;b&gt;us&lt;/b&gt;" in page
    assert operator.post(path, data={**hidden, "why": "again"}).status_code == 409


def test_unknown_calls_are_shown_and_decided(operator: Visitor, owner: Owner) -> None:
    path = made(operator, owner)
    assert "there is nothing to decide" in operator.get(f"{path}/unknown").text
    missing = operator.post(f"{path}/unknown", data=operator.hidden(path))
    assert (missing.status_code, "Choose one of the two" in missing.text) == (422, True)


def test_pages_of_the_list_go_on_and_keep_the_filter(api: Api, of_owner: Visitor, owner: Owner) -> None:
    first = int(made(of_owner, owner).rsplit("/", 1)[1])
    with api.engine.begin() as connection:
        columns = ["owner_id", "sender_id", "name", "subject_template", "html_template", "condition"]
        for _ in range(5):  # 1, 2, 4 … 32 campaigns
            mine = select(*(campaign_table.c[name] for name in columns)).where(
                campaign_table.c.owner_id == owner.user_id
            )
            connection.execute(insert(campaign_table).from_select(columns, mine))
        connection.execute(update(campaign_table).where(campaign_table.c.id == first).values(name="100%_Oldest"))
    page = of_owner.get("/console/", params={"status": "draft"}).text
    assert page.count('<th scope="row"') == 30
    link = page.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
    assert "status=draft" in link
    older = of_owner.get(link).text
    assert older.count('<th scope="row"') == 2
    assert "100%_Oldest" in older
    found = of_owner.get("/console/", params={"name": "%_old"}).text
    assert found.count('<th scope="row"') == 1
    assert "the filter lets none through" in of_owner.get("/console/", params={"name": "__"}).text


def test_the_proxys_header_is_believed_of_the_proxy_only(api: Api) -> None:
    name = unique("ada@example.com")
    PostgresApiKeys(api.engine).add(name, "reader", None)
    header = {"X-Forwarded-User": name}
    assert httpx.get(f"{api.url}/console/", headers=header).status_code == 303, "it is off by default"
    of_others = {"console_proxy_header": "X-Forwarded-User", "console_proxy_addresses": "10.0.0.0/8"}
    with served(api.settings.model_copy(update=of_others)) as url:
        assert httpx.get(f"{url}/console/", headers=header).status_code == 303
    with served(api.settings.model_copy(update={**of_others, "console_proxy_addresses": "127.0.0.1"})) as url:
        page = httpx.get(f"{url}/console/", headers=header)
        assert (page.status_code, name in page.text, "Log out" in page.text) == (200, True, False)
        assert httpx.get(f"{url}/console/").status_code == 303
        assert httpx.get(f"{url}/console/", headers={"X-Forwarded-User": "nobody"}).status_code == 403
        twice = httpx.get(f"{url}/console/", headers=[("X-Forwarded-User", name), ("X-Forwarded-User", "root")])
        assert twice.status_code == 400
        PostgresApiKeys(api.engine).add(name, "operator", None)
        assert httpx.get(f"{url}/console/", headers=header).status_code == 403, "two keys have the name"


def test_a_body_that_is_no_form_is_refused_as_a_page(operator: Visitor) -> None:
    hidden = operator.hidden("/console/suppressions")
    for content, kind, status in (
        (b"{}", "application/json", 415),
        (b"a=%ff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a=1" for _ in range(99)), "application/x-www-form-urlencoded", 400),
        (b"a=" + b"x" * (13 << 20), "application/x-www-form-urlencoded", 413),
    ):
        answer = operator.post("/console/suppressions", content=content, headers={"Content-Type": kind})
        assert (answer.status_code, "<h1>" in answer.text) == (status, True)
    assert operator.post("/console/suppressions", data={**hidden, "address": "a\0b"}).status_code == 422
