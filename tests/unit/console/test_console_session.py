"""The session's cookie, the forms' tokens, and where a login leads back to."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from email_platform.console.login import back_to
from email_platform.console.session import Session, Sessions
from email_platform.settings import Settings

_SECRET = "a-secret-of-enough-characters"


def settings(tmp_path: Path, **values: object) -> Settings:
    return Settings.checked(
        {
            "state_folder": tmp_path,
            "postgres_url": "postgresql://u@h/d",
            "s3_bucket": "staging",
            "clickhouse_url": "http://u@h:8123/d",
            "unsubscribe_secret": _SECRET,
            **values,
        }
    )


def asked(cookie: str) -> Request:
    return Request({"type": "http", "headers": [(b"cookie", cookie.encode("latin-1"))]})


def cookie_of(sessions: Sessions, session: Session) -> str:
    response = Response()
    sessions.write(response, session)
    return response.headers["set-cookie"]


def test_a_session_is_known_again_and_its_cookie_holds_the_keys_id_only(tmp_path: Path) -> None:
    sessions = Sessions(settings(tmp_path))
    session = sessions.begun(17)
    written = cookie_of(sessions, session)
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(written.split("; "))
    assert "Secure" not in written
    found = sessions.of(asked(written.split(";")[0]))
    assert (found.session_id, found.key_id, found.is_new) == (session.session_id, 17, False)


def test_behind_tls_the_cookie_is_for_this_host_and_tls_only(tmp_path: Path) -> None:
    written = cookie_of(Sessions(settings(tmp_path, console_url="https://console.example.com")), Session("x", 1))
    assert written.startswith("__Host-console=")
    assert "Secure" in written.split("; ")


@pytest.mark.parametrize("cookie", ["", "console=", "console=a.b.c", "console=\xff", "other=1"])
def test_a_cookie_that_we_did_not_make_is_a_new_session_of_nobody(tmp_path: Path, cookie: str) -> None:
    found = Sessions(settings(tmp_path)).of(asked(cookie))
    assert (found.key_id, found.is_new) == (None, True)


def test_a_changed_cookie_is_nobodys(tmp_path: Path) -> None:
    sessions = Sessions(settings(tmp_path))
    cookie = cookie_of(sessions, sessions.begun(17)).split(";")[0]
    others = cookie_of(Sessions(settings(tmp_path, unsubscribe_secret="another-secret-of-length")), Session("x", 17))
    assert sessions.of(asked(cookie)).key_id == 17
    content, at, signature = cookie.split(".")
    other_end = f"{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    for wrong in (f"{content}.{at}.{other_end}", cookie.replace("=", "=x", 1), others.split(";")[0]):
        assert sessions.of(asked(wrong)).key_id is None


def test_a_session_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(settings(tmp_path, console_session_seconds=60))
    cookie = cookie_of(sessions, sessions.begun(17)).split(";")[0]
    now = time.time()
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + 50)
    assert sessions.of(asked(cookie)).key_id == 17
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + 62)
    assert sessions.of(asked(cookie)).key_id is None


def test_sessions_and_tokens_outlive_a_change_of_the_secret(tmp_path: Path) -> None:
    old = Sessions(settings(tmp_path))
    new = Sessions(settings(tmp_path, unsubscribe_secret=SecretStr(f"a-new-secret-of-length,{_SECRET}")))
    session = old.begun(3)
    assert new.of(asked(cookie_of(old, session).split(";")[0])).key_id == 3
    assert new.is_token(session, old.token(session))
    assert not old.is_token(session, new.token(session)), "the first of the secrets signs"


def test_a_token_is_one_sessions(tmp_path: Path) -> None:
    sessions = Sessions(settings(tmp_path))
    mine, other = sessions.begun(1), sessions.begun(1)
    assert sessions.is_token(mine, sessions.token(mine))
    for wrong in (sessions.token(other), "", "x.y", cookie_of(sessions, mine).split("=", 1)[1].split(";")[0]):
        assert not sessions.is_token(mine, wrong)


@pytest.mark.parametrize(
    ("wanted", "leads_to"),
    [
        ("/console/campaigns/17/plan?x=1", "/console/campaigns/17/plan?x=1"),
        ("/console", "/console"),
        ("", "/console/"),
        ("https://evil.example/console/", "/console/"),
        ("//evil.example/console/", "/console/"),
        ("/console//evil.example", "/console/"),
        ("/\\evil.example", "/console/"),
        ("/console/../v1/campaigns", "/console/"),
        ("/consoleevil", "/console/"),
        ("/v1/campaigns", "/console/"),
        ("javascript:alert(1)", "/console/"),
        ("/console/\r\nset-cookie: a=b", "/console/"),
    ],
)
def test_a_login_leads_back_to_pages_of_the_console_only(wanted: str, leads_to: str) -> None:
    assert back_to(wanted) == leads_to
