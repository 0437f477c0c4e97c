"""Who is logged in: a signed cookie, and the tokens that tie forms to it.

Invariant: the cookie holds the id of an API key and never the key; each request asks whether that key is still good, so
that revoking it ends all of its sessions. A form is taken only with the token of the session that it was made for.

The cookie is signed by the secrets that sign unsubscribe links, under a salt of its own (itsdangerous' documentation,
"The Salt"), so that several processes know each other's sessions and a secret can be replaced: the first one signs.
Its attributes are those of RFC 6265bis: ``HttpOnly``, ``SameSite=Lax`` (links from an alert's mail keep the login), and
behind TLS ``Secure`` with the prefix ``__Host-``.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from itsdangerous import BadData, URLSafeSerializer, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import Response

from email_platform.settings import Settings

_SIGNER: dict[str, Any] = {"key_derivation": "hmac", "digest_method": hashlib.sha256}


@dataclass(frozen=True, slots=True)
class Session:
    """One browser's session.

    Attributes:
        session_id: random; a new one with each login.
        key_id: of the API key that logged in; None before.
        is_new: whether the browser has no cookie of it yet.
    """

    session_id: str
    key_id: int | None = None
    is_new: bool = False


class Sessions:
    """Reads and writes the cookie, and makes and checks the forms' tokens."""

    def __init__(self, settings: Settings) -> None:
        given = settings.unsubscribe_secret.get_secret_value().split(",")
        keys = [one.strip() for one in reversed(given)]  # the last one signs
        self._cookies = URLSafeTimedSerializer(keys, salt="email-platform/console/session", signer_kwargs=_SIGNER)
        self._tokens = URLSafeSerializer(keys, salt="email-platform/console/form", signer_kwargs=_SIGNER)
        self._seconds = round(settings.console_session_seconds)
        self._is_secure = (settings.console_url or "").startswith("https:")
        self.cookie_name = "__Host-console" if self._is_secure else "console"

    def of(self, request: Request) -> Session:
        """The browser's session; a new one where it has none that is good."""
        try:
            kept = self._cookies.loads(request.cookies.get(self.cookie_name, ""), max_age=self._seconds)
            return Session(str(kept["id"]), None if kept["key"] is None else int(kept["key"]))
        except (BadData, KeyError, TypeError, ValueError):
            return self.begun(None)

    @staticmethod
    def begun(key_id: int | None) -> Session:
        """A new session of this key, or of nobody yet."""
        return Session(secrets.token_urlsafe(18), key_id, is_new=True)

    def write(self, response: Response, session: Session) -> None:
        """Have the browser keep the session."""
        response.set_cookie(
            self.cookie_name,
            str(self._cookies.dumps({"id": session.session_id, "key": session.key_id})),
            max_age=self._seconds,
            path="/",
            secure=self._is_secure,
            httponly=True,
            samesite="lax",
        )

    def end(self, response: Response) -> None:
        """Have the browser forget the session."""
        response.delete_cookie(self.cookie_name, path="/", secure=self._is_secure, httponly=True, samesite="lax")

    def token(self, session: Session) -> str:
        """What a form of this session sends along."""
        return str(self._tokens.dumps(session.session_id))

    def is_token(self, session: Session, token: str) -> bool:
        """Whether the token was made for a form of this session."""
        try:
            found = str(self._tokens.loads(token))
        except BadData:
            return False
        return secrets.compare_digest(found.encode(), session.session_id.encode())
