"""Unsubscribe links: believed only where we made them, the same for ever, and telling nothing."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from email_platform.content.unsubscribe import InvalidUnsubscribeTokenError, UnsubscribeSigner, Unsubscription
from email_platform.errors import ConfigurationError

OLD, NEW = SecretStr("the old secret of last year"), SecretStr("the new secret of this year")
BASE = "https://mail.example.com"
IDS = st.integers(min_value=0, max_value=2**63 - 1)
TOKEN_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(campaign_id=IDS, lead_id=IDS, sender_id=IDS)
def test_a_token_says_what_was_signed_and_is_always_the_same(campaign_id: int, lead_id: int, sender_id: int) -> None:
    first, second = UnsubscribeSigner(NEW, BASE), UnsubscribeSigner(NEW, BASE)
    token = first.token(campaign_id, lead_id, sender_id)
    assert token == second.token(campaign_id, lead_id, sender_id)
    assert second.verify(token) == Unsubscription(campaign_id, lead_id, sender_id)
    assert first.url(campaign_id, lead_id, sender_id) == f"{BASE}/unsubscribe/{token}"


@given(position=st.integers(0, 59), character=st.sampled_from(TOKEN_CHARACTERS), lead_id=IDS)
def test_a_token_with_any_one_character_changed_is_refused(position: int, character: str, lead_id: int) -> None:
    signer = UnsubscribeSigner(NEW, BASE)
    token = signer.token(1, lead_id, 3)
    changed = token[:position] + character + token[position + 1 :]
    if changed == token:
        assert signer.verify(changed).lead_id == lead_id
    else:
        with pytest.raises(InvalidUnsubscribeTokenError):
            signer.verify(changed)


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_whatever_was_not_signed_is_refused_without_a_traceback(token: str) -> None:
    with pytest.raises(InvalidUnsubscribeTokenError) as refused:
        UnsubscribeSigner(NEW, BASE).verify(token)
    assert len(token) < 20 or token not in str(refused.value)


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t + "A", lambda t: t + "=", lambda t: t + "\n"])
def test_a_token_cut_or_lengthened_is_refused(change: object) -> None:
    signer = UnsubscribeSigner(NEW, BASE)
    with pytest.raises(InvalidUnsubscribeTokenError):
        signer.verify(change(signer.token(1, 2, 3)))  # type: ignore[operator]


def test_a_rotated_secret_still_verifies_the_links_sent_before_and_a_retired_one_does_not() -> None:
    sent_before = UnsubscribeSigner(OLD, BASE).token(1, 2, 3)
    rotated = UnsubscribeSigner([NEW, OLD], BASE)
    assert rotated.verify(sent_before) == Unsubscription(1, 2, 3)
    assert rotated.token(1, 2, 3) == UnsubscribeSigner(NEW, BASE).token(1, 2, 3) != sent_before
    with pytest.raises(InvalidUnsubscribeTokenError):
        UnsubscribeSigner(NEW, BASE).verify(sent_before)


def test_the_settings_may_hold_several_secrets_joined_by_commas() -> None:
    both = f"{NEW.get_secret_value()}, {OLD.get_secret_value()}"
    settings = SimpleNamespace(unsubscribe_secret=SecretStr(both), public_base_url="http://127.0.0.1:18080/")
    signer = UnsubscribeSigner.from_settings(settings)
    assert signer.verify(UnsubscribeSigner(OLD, BASE).token(1, 2, 3)).lead_id == 2
    assert signer.url(1, 2, 3).startswith("http://127.0.0.1:18080/unsubscribe/")


def test_no_secret_is_in_the_signers_repr() -> None:
    shown = repr(UnsubscribeSigner([NEW, OLD], BASE))
    assert "secret of" not in shown
    assert "2 secrets" in shown


@pytest.mark.parametrize(
    "base_url",
    [
        "http://mail.example.com",
        "mail.example.com",
        "https://mail.example.com/\r\nBcc: all@example.com",
        "https://mail.example.com/>,<mailto:x@example.com",
        "https://user:password@mail.example.com",
        "https://mail.example.com?x=1",
        "https://[broken",
        "",
    ],
)
def test_an_address_that_must_not_stand_in_a_header_is_refused(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="public base URL"):
        UnsubscribeSigner(NEW, base_url)


@pytest.mark.parametrize("secrets", [[], [SecretStr("short")], [NEW, SecretStr("")]])
def test_too_few_or_too_short_secrets_are_refused(secrets: list[SecretStr]) -> None:
    with pytest.raises(ConfigurationError, match="unsubscribe secret"):
        UnsubscribeSigner(secrets, BASE)
