"""What providers say of a sender's address: SES by moto, the others by a real server with their documented answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.stub import Stubber
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from email_platform.adapters.providers import ProviderAccount, check_sender
from email_platform.adapters.providers.sender_check import check_with_ses
from email_platform.adapters.providers.ses import open_ses_client

pytestmark = pytest.mark.integration

_ADDRESS = "news@mail.example.org"
_KEY = "sekret-key"


@dataclass
class Answers:
    """What the server answers, by path with its parameters; and what it was asked."""

    url: str = ""
    by_path: Mapping[str, tuple[int, object]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def answers() -> Iterator[Answers]:
    known = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.asked.append((self.path, self.headers.get("authorization", "")))
            status, document = known.by_path.get(self.path, (404, {}))
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield known
    server.shutdown()
    thread.join()
    server.server_close()


def check(provider: str, answers: Answers) -> tuple[str, str]:
    account = ProviderAccount(api_key=SecretStr(_KEY), base_url=answers.url, domain="mail.example.org")
    checked = check_sender(provider, account, _ADDRESS)
    assert _KEY not in checked.says
    return checked.verdict, checked.says


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [
        ((200, {"data": [{"id": "1", "name": "Mail.example.org", "status": "verified"}]}), "verified", "is verified"),
        ((200, {"data": [{"id": "1", "name": "mail.example.org", "status": "pending"}]}), "not_verified", "is pending"),
        ((200, {"data": [{"id": "1", "name": "example.org", "status": "verified"}]}), "not_verified", "has no domain"),
        ((401, {"name": "restricted_api_key"}), "unknown", "HTTP 401"),
        ((302, {}), "unknown", "HTTP 302"),
        ((200, b"<html>"), "unknown", "no JSON"),
        ((200, ["odd"]), "not_verified", "has no domain"),
    ],
)
def test_resend(answers: Answers, answer: tuple[int, object], verdict: str, words: str) -> None:
    answers.by_path = {"/domains?limit=100": answer}
    found = check("resend", answers)
    assert (found[0], words in found[1]) == (verdict, True), found
    assert answers.asked == [("/domains?limit=100", f"Bearer {_KEY}")]


def test_resend_is_read_to_its_last_page(answers: Answers) -> None:
    answers.by_path = {
        "/domains?limit=100": (
            200,
            {"has_more": True, "data": [{"id": "a", "name": "x.example", "status": "verified"}]},
        ),
        "/domains?limit=100&after=a": (200, {"data": [{"id": "b", "name": "mail.example.org", "status": "verified"}]}),
    }
    assert check("resend", answers)[0] == "verified"


_NO_SENDER = (200, {"results": []})


@pytest.mark.parametrize(
    ("domains", "senders", "verdict", "words"),
    [
        ((200, [{"domain": "mail.example.org", "valid": True}]), _NO_SENDER, "verified", "is authenticated"),
        ((200, [{"domain": "mail.example.org", "valid": False}]), _NO_SENDER, "not_verified", "neither"),
        ((200, []), (200, {"results": [{"from_email": _ADDRESS, "verified": True}]}), "verified", "single sender"),
        ((200, []), (200, {"results": [{"from_email": _ADDRESS, "verified": False}]}), "not_verified", "click"),
        ((200, []), (200, {"results": [{"from_email": "x@example.org"}] * 100}), "unknown", "more single senders"),
        ((403, {}), _NO_SENDER, "unknown", "HTTP 403"),
        ((200, []), (403, {}), "unknown", "HTTP 403"),
    ],
)
def test_sendgrid(
    answers: Answers, domains: tuple[int, object], senders: tuple[int, object], verdict: str, words: str
) -> None:
    answers.by_path = {
        "/v3/whitelabel/domains?domain=mail.example.org&limit=100": domains,
        "/v3/verified_senders?limit=100": senders,
    }
    found = check("sendgrid", answers)
    assert (found[0], words in found[1]) == (verdict, True), found


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [
        ((200, {"domain": {"name": "mail.example.org", "state": "active"}}), "verified", "is active"),
        ((200, {"domain": {"name": "mail.example.org", "state": "unverified"}}), "not_verified", "is unverified"),
        ((200, {}), "unknown", "names no state"),
        ((401, {}), "unknown", "HTTP 401"),
        ((404, {}), "unknown", "HTTP 404"),
    ],
)
def test_mailgun(answers: Answers, answer: tuple[int, object], verdict: str, words: str) -> None:
    answers.by_path = {"/v4/domains/mail.example.org": answer}
    found = check("mailgun", answers)
    assert (found[0], words in found[1]) == (verdict, True), found
    assert answers.asked[0][1].startswith("Basic ")


def test_mailgun_says_nothing_of_an_address_of_another_domain(answers: Answers) -> None:
    answers.by_path = {"/v4/domains/other.example": (200, {"domain": {"state": "active"}})}
    account = ProviderAccount(api_key=SecretStr(_KEY), base_url=answers.url, domain="other.example")
    checked = check_sender("mailgun", account, _ADDRESS)
    assert (checked.verdict, "another domain" in checked.says) == ("unknown", True)


@pytest.mark.parametrize("provider", ["resend", "sendgrid", "mailgun"])
def test_a_provider_that_is_away_is_not_known(provider: str) -> None:
    account = ProviderAccount(api_key=SecretStr(_KEY), base_url="http://127.0.0.1:9", domain="mail.example.org")
    checked = check_sender(provider, account, _ADDRESS)
    assert (checked.verdict, "ConnectError" in checked.says) == ("unknown", True)


@pytest.mark.parametrize("provider", ["postmark", "simulator"])
def test_a_provider_that_cannot_be_asked_is_not_known(provider: str) -> None:
    checked = check_sender(provider, ProviderAccount(), _ADDRESS)
    assert (checked.verdict, "campaign test" in checked.says) == ("unknown", True)


def test_ses_is_asked_for_the_address_and_the_domains_above_it() -> None:
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        account = ProviderAccount(
            base_url=f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}",
            region="eu-central-1",
            access_key_id=SecretStr("key"),
            secret_access_key=SecretStr("secret"),
        )
        none = check_sender("ses", account, _ADDRESS)
        assert (none.verdict, "has no identity" in none.says) == ("not_verified", True), none
        client = open_ses_client(
            region="eu-central-1", access_key_id="key", secret_access_key="secret", endpoint_url=account.base_url
        )
        client.create_email_identity(EmailIdentity="example.org")
        found = client.get_email_identity(EmailIdentity="example.org")
        checked = check_sender("ses", account, _ADDRESS)
        wanted = "verified" if found["VerifiedForSendingStatus"] else "not_verified"
        assert checked.verdict == wanted
        assert "example.org" in checked.says
    finally:
        server.stop()


def test_ses_is_a_yes_only_for_an_identity_that_may_send() -> None:
    client = open_ses_client(region="eu-central-1", access_key_id="key", secret_access_key="secret")
    pending = {"VerifiedForSendingStatus": False, "VerificationStatus": "PENDING"}
    with Stubber(client) as stub:  # checks names and types by Amazon's own model of the API
        stub.add_response("get_email_identity", pending, {"EmailIdentity": _ADDRESS})
        stub.add_response(
            "get_email_identity", {"VerifiedForSendingStatus": True}, {"EmailIdentity": "mail.example.org"}
        )
        assert check_with_ses(client, _ADDRESS).verdict == "verified"
        stub.add_response("get_email_identity", pending, {"EmailIdentity": _ADDRESS})
        stub.add_client_error("get_email_identity", "NotFoundException")
        stub.add_client_error("get_email_identity", "NotFoundException")
        checked = check_with_ses(client, _ADDRESS)
        assert (checked.verdict, f"{_ADDRESS} is PENDING" in checked.says) == ("not_verified", True)
        stub.add_client_error("get_email_identity", "AccessDeniedException")
        checked = check_with_ses(client, _ADDRESS)
        assert (checked.verdict, "allow ses:GetEmailIdentity" in checked.says) == ("unknown", True)
        stub.assert_no_pending_responses()
