"""Signed links with which a recipient leaves a sender's list: no login, no address in the URL.

Invariant: only a token made under one of our secrets is believed, and one recipient of one campaign has one
token for ever, so that a retried provider call has the same bytes.

The token is base64url of 45 bytes: a version, three 64-bit ids, and 20 bytes of HMAC-SHA256 over them. 45 is
a multiple of 3: there is no padding and there are no spare bits, so exactly one text stands for one token.
The standard library's one-shot `hmac.digest` signs a link in 2.5 µs; itsdangerous, which derives its key again
for each signature, needs 12 µs beside 25 µs for rendering the whole message.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from email_platform.errors import ConfigurationError, EmailPlatformError

UNSUBSCRIBE_PATH = "/unsubscribe"
MINIMUM_SECRET_CHARACTERS = 16

_IDS = struct.Struct(">Bqqq")  # version, campaign, lead, sender
_VERSION = 1
_MAC_BYTES = 20
_URL_SAFE = bytes.maketrans(b"+/", b"-_")  # as base64.urlsafe_b64encode, at a third of its cost
_CONTEXT = b"email-platform/unsubscribe\0"  # another use of the same secret gives no valid token here
_TOKEN = re.compile(r"[A-Za-z0-9_-]{60}")
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class InvalidUnsubscribeTokenError(EmailPlatformError):
    """The token was not made by us, or was changed or cut on its way."""


@dataclass(frozen=True, slots=True)
class Unsubscription:
    """What a valid token says: this lead leaves the list of this sender, by the message of this campaign."""

    campaign_id: int
    lead_id: int
    sender_id: int


class UnsubscribeSettings(Protocol):
    """The settings this module needs."""

    @property
    def unsubscribe_secret(self) -> SecretStr:
        """One secret, or several joined by commas: the first signs, all verify."""
        ...

    @property
    def public_base_url(self) -> str:
        """Where recipients reach us."""
        ...


class UnsubscribeSigner:
    """Makes and verifies unsubscribe links; holds its secrets out of every repr."""

    __slots__ = ("_base_url", "_keys")

    def __init__(self, secret: SecretStr | Sequence[SecretStr], public_base_url: str) -> None:
        """Bind secrets and address.

        Args:
            secret: one, or several for rotation: the first signs, all verify.
            public_base_url: ``https://host[/path]``; plain http only on this machine itself (RFC 8058 wants https).

        Raises:
            ConfigurationError: no secret, a short one, or an address that must not stand in a header.
        """
        secrets = (secret,) if isinstance(secret, SecretStr) else tuple(secret)
        if not secrets:
            raise ConfigurationError("unsubscribe secret: at least one is needed to sign links")
        if any(len(each.get_secret_value()) < MINIMUM_SECRET_CHARACTERS for each in secrets):
            raise ConfigurationError(f"unsubscribe secret: needs at least {MINIMUM_SECRET_CHARACTERS} characters")
        self._keys = tuple(each.get_secret_value().encode() for each in secrets)
        self._base_url = _checked_base_url(public_base_url) + UNSUBSCRIBE_PATH + "/"

    @classmethod
    def from_settings(cls, settings: UnsubscribeSettings) -> UnsubscribeSigner:
        """The signer that the settings describe; rotate by putting a new secret and a comma before the old one.

        Raises:
            ConfigurationError: see the constructor.
        """
        secrets = [SecretStr(each.strip()) for each in settings.unsubscribe_secret.get_secret_value().split(",")]
        return cls(secrets, settings.public_base_url)

    def __repr__(self) -> str:
        return f"UnsubscribeSigner({self._base_url}, {len(self._keys)} secrets)"

    def token(self, campaign_id: int, lead_id: int, sender_id: int) -> str:
        """The one token of this recipient of this campaign: 60 characters of base64url."""
        ids = _IDS.pack(_VERSION, campaign_id, lead_id, sender_id)
        written = binascii.b2a_base64(ids + _mac(self._keys[0], ids), newline=False)
        return written.translate(_URL_SAFE).decode("ascii")

    def url(self, campaign_id: int, lead_id: int, sender_id: int) -> str:
        """The link for the message's body and its List-Unsubscribe header."""
        return self._base_url + self.token(campaign_id, lead_id, sender_id)

    def verify(self, token: str) -> Unsubscription:
        """What the token says, if it is ours.

        Raises:
            InvalidUnsubscribeTokenError: it is not; the message does not repeat it.
        """
        if not _TOKEN.fullmatch(token):
            raise InvalidUnsubscribeTokenError("the unsubscribe link is incomplete or was changed")
        try:
            raw = base64.urlsafe_b64decode(token)
        except binascii.Error as error:  # cannot happen after the pattern; never a traceback for a visitor
            raise InvalidUnsubscribeTokenError("the unsubscribe link cannot be read") from error
        ids, mac = raw[: _IDS.size], raw[_IDS.size :]
        # Every secret is tried, whichever matches, so the time taken reveals nothing about which one did.
        matches = [hmac.compare_digest(_mac(key, ids), mac) for key in self._keys]
        if not any(matches):
            raise InvalidUnsubscribeTokenError("the unsubscribe link was not made here, or its secret was retired")
        version, campaign_id, lead_id, sender_id = _IDS.unpack(ids)
        if version != _VERSION:
            raise InvalidUnsubscribeTokenError(f"the unsubscribe link has the unknown version {version}")
        return Unsubscription(campaign_id, lead_id, sender_id)


def _mac(key: bytes, ids: bytes) -> bytes:
    return hmac.digest(key, _CONTEXT + ids, "sha256")[:_MAC_BYTES]


def _checked_base_url(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        host = parts.hostname
    except ValueError as error:
        raise ConfigurationError("public base URL: cannot be read as a URL") from error
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment or parts.username:
        raise ConfigurationError("public base URL: must look like https://mail.example.com")
    if re.search(r"[^!-~]|[<>,\"]", base_url):
        raise ConfigurationError("public base URL: holds characters that must not stand in a message header")
    if parts.scheme == "http" and host not in _LOOPBACK_HOSTS:
        raise ConfigurationError("public base URL: must be https (RFC 8058) unless it is this machine itself")
    return base_url.rstrip("/")
