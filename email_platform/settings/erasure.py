"""The key under which erased addresses are recognised."""

from __future__ import annotations

from pydantic import BaseModel

from email_platform.settings.values import SigningSecret


class ErasureSettings(BaseModel):
    """How an address that was erased is still known not to be mailed.

    Attributes:
        erasure_key: of the keyed hashes that stand in the place of erased addresses. Keep it as long as the data:
            under another key nobody could tell who was erased, so nothing is frozen or sent then. None: nobody was
            erased yet, and nobody can be.
    """

    erasure_key: SigningSecret | None = None
