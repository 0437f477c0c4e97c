"""Whether a provider would take mail from an address: asked where it documents a way, and otherwise not known.

Invariant: only an answer that the provider documents is a yes or a no; a key that may not ask, a page that is away and
a provider that has no such question are "not known", with the reason. Nothing is sent and nothing is changed.

| provider | asked | a yes | source |
| --- | --- | --- | --- |
| SES | ``GetEmailIdentity``: address, domain, those above | ``VerifiedForSendingStatus`` | AWS, SES API v2 |
| SendGrid | ``GET /v3/whitelabel/domains`` | ``valid`` | Twilio, Domain Authentication |
| SendGrid | ``GET /v3/verified_senders`` | ``verified`` | Twilio, Sender Verification |
| Resend | ``GET /domains`` | ``status``: ``verified`` | Resend, List Domains |
| Mailgun | ``GET /v4/domains/{name}`` of the account's domain | ``state``: ``active`` | Mailgun, Domains |

Postmark is not asked: its Sender Signatures API wants an account's token, and we have a server's. The simulator takes
every sender.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import httpx
from botocore.exceptions import BotoCoreError, ClientError

_TIMEOUT_SECONDS = 10.0
_MOST_PAGES = 50
_PAGE_ROWS = 100


@dataclass(frozen=True, slots=True)
class SenderCheck:
    """What a provider says of an address.

    Attributes:
        verdict: ``unknown`` where it was not asked or gave no answer to the question.
        says: why, and what to do where it is no yes.
    """

    verdict: Literal["verified", "not_verified", "unknown"]
    says: str


class _NoAnswerError(Exception):
    """The question got no answer; the words say why."""


def check_with_ses(client: Any, address: str) -> SenderCheck:
    """Ask for the address, then for its domain and those above it: one that is verified is enough."""
    domain = _domain_of(address)
    labels = domain.split(".")
    pending: list[str] = []
    for identity in (address, *(".".join(labels[at:]) for at in range(max(1, len(labels) - 1)))):
        try:
            found = client.get_email_identity(EmailIdentity=identity)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code == "NotFoundException":
                continue
            return SenderCheck("unknown", f"SES did not answer the question ({code}); allow ses:GetEmailIdentity")
        except BotoCoreError as error:
            return SenderCheck("unknown", f"SES could not be asked ({type(error).__name__})")
        if found.get("VerifiedForSendingStatus") is True:
            return SenderCheck("verified", f"the identity {identity} is verified")
        pending.append(f"{identity} is {found.get('VerificationStatus', 'not verified')}")
    if pending:
        return SenderCheck("not_verified", f"{'; '.join(pending)}: finish its verification in SES")
    return SenderCheck("not_verified", f"SES has no identity {address} or {domain} in this region: create one")


def check_with_sendgrid(base_url: str, api_key: str, address: str) -> SenderCheck:
    """Ask for the authenticated domains, then for the single senders."""
    domain = _domain_of(address)
    headers = {"authorization": f"Bearer {api_key}"}
    try:
        domains = _get(base_url, "/v3/whitelabel/domains", headers, {"domain": domain, "limit": str(_PAGE_ROWS)})
        for one in _rows(domains):
            if _same(one.get("domain"), domain) and one.get("valid") is True:
                return SenderCheck("verified", f"the domain {domain} is authenticated")
        senders = _get(base_url, "/v3/verified_senders", headers, {"limit": str(_PAGE_ROWS)})
    except _NoAnswerError as failure:
        return SenderCheck("unknown", f"SendGrid did not answer the question: {failure}")
    results = _rows(senders.get("results") if isinstance(senders, dict) else None)
    for one in results:
        if _same(one.get("from_email"), address):
            if one.get("verified") is True:
                return SenderCheck("verified", f"the single sender {address} is verified")
            return SenderCheck("not_verified", f"the single sender {address} waits for its owner's click")
    if len(results) >= _PAGE_ROWS:
        return SenderCheck("unknown", f"{domain} is not authenticated, and there are more single senders than we read")
    return SenderCheck("not_verified", f"neither {domain} is authenticated nor {address} a single sender: do one")


def check_with_resend(base_url: str, api_key: str, address: str) -> SenderCheck:
    """Look for the address's domain among the account's, page by page."""
    domain = _domain_of(address)
    parameters = {"limit": str(_PAGE_ROWS)}
    for _ in range(_MOST_PAGES):
        try:
            page = _get(base_url, "/domains", {"authorization": f"Bearer {api_key}"}, parameters)
        except _NoAnswerError as failure:
            return SenderCheck("unknown", f"Resend did not answer the question: {failure}; a sending key may not ask")
        rows = _rows(page.get("data") if isinstance(page, dict) else None)
        for one in rows:
            if _same(one.get("name"), domain):
                status = str(one.get("status"))
                if status == "verified":
                    return SenderCheck("verified", f"the domain {domain} is verified")
                return SenderCheck("not_verified", f"the domain {domain} is {status}: finish its DNS records")
        if not rows or not page.get("has_more"):
            return SenderCheck("not_verified", f"the account has no domain {domain}: add it in Resend")
        parameters["after"] = str(rows[-1].get("id"))
    return SenderCheck("unknown", "the account has more domains than we read")


def check_with_mailgun(base_url: str, api_key: str, sending_domain: str, address: str) -> SenderCheck:
    """Ask for the state of the account's sending domain, which all its messages go through."""
    client_auth = httpx.BasicAuth("api", api_key)
    try:
        found = _get(base_url, f"/v4/domains/{quote(sending_domain, safe='')}", {}, {}, client_auth)
    except _NoAnswerError as failure:
        return SenderCheck("unknown", f"Mailgun did not answer the question: {failure}; a sending key may not ask")
    domain = found.get("domain") if isinstance(found, dict) else None
    state = domain.get("state") if isinstance(domain, dict) else None
    if not isinstance(state, str):
        return SenderCheck("unknown", "Mailgun's answer names no state")
    if state != "active":
        return SenderCheck("not_verified", f"the sending domain {sending_domain} is {state}: finish its DNS records")
    if not _same(_domain_of(address), sending_domain):
        return SenderCheck(
            "unknown", f"{sending_domain} is active, but {address} is of another domain, of which Mailgun says nothing"
        )
    return SenderCheck("verified", f"the sending domain {sending_domain} is active")


def cannot_know(provider: str) -> SenderCheck:
    """For a provider that cannot be asked with what we have."""
    reasons: Mapping[str, str] = {
        "postmark": "Postmark answers this to an account's token only, and we have a server's: look at Sender "
        "Signatures in Postmark",
        "simulator": "the simulator takes every sender",
    }
    reason = reasons.get(provider, "the provider documents no way to ask")
    return SenderCheck("unknown", f"{reason}; `email-platform campaign test` shows whether a message is taken")


def _get(
    base_url: str,
    path: str,
    headers: Mapping[str, str],
    parameters: Mapping[str, str],
    auth: httpx.BasicAuth | None = None,
) -> Any:
    """The JSON document of a 200; no redirect is followed, since the key would go along.

    Raises:
        _NoAnswerError: anything else.
    """
    try:
        with httpx.Client(timeout=_TIMEOUT_SECONDS, follow_redirects=False, trust_env=False, auth=auth) as client:
            answer = client.get(f"{base_url.rstrip('/')}{path}", headers=dict(headers), params=dict(parameters))
    except httpx.HTTPError as error:
        raise _NoAnswerError(f"no connection or no answer ({type(error).__name__})") from None
    if answer.status_code != httpx.codes.OK:
        raise _NoAnswerError(f"HTTP {answer.status_code}")
    try:
        return answer.json()
    except (ValueError, RecursionError):
        raise _NoAnswerError("its answer is no JSON") from None


def _rows(document: Any) -> list[Mapping[str, Any]]:
    return [one for one in document if isinstance(one, dict)] if isinstance(document, list) else []


def _same(found: object, wanted: str) -> bool:
    return isinstance(found, str) and found.lower() == wanted.lower()


def _domain_of(address: str) -> str:
    return address.rpartition("@")[2].lower()
