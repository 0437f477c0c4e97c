"""A person who was erased is found in every spelling, and nobody else is touched."""

from __future__ import annotations

import hashlib

import pytest

from email_platform.domain.addresses import is_valid_address, normalised_address
from email_platform.domain.erasure import ErasedPerson, ErasureKey, is_pseudonym

KEY = ErasureKey("a secret of more than sixteen characters")
ANN = "ann+news@b\u00fccher.example"


def person(address: str = ANN) -> ErasedPerson:
    return ErasedPerson(address, KEY.pseudonym(address))


@pytest.mark.parametrize(
    "spelling",
    [ANN, "ANN+News@B\u00dcCHER.example", "\u00a0ann+news@xn--bcher-kva.example\t", "Ann+news@XN--bcher-kva.EXAMPLE"],
)
def test_every_spelling_that_compares_equal_has_one_pseudonym_which_is_an_address_that_nobody_has(
    spelling: str,
) -> None:
    pseudonym = KEY.pseudonym(spelling)
    assert pseudonym == KEY.pseudonym(ANN)
    assert is_valid_address(pseudonym)
    assert normalised_address(pseudonym) == pseudonym
    assert is_pseudonym(pseudonym)
    assert KEY.pseudonym(pseudonym) == pseudonym, "erasing twice changes nothing"
    assert person().is_same(spelling)


def test_the_hash_is_that_of_rfc_2104_under_the_padded_keys_and_another_key_gives_another_one() -> None:
    by_hand = hashlib.sha256(
        KEY.outer_pad + hashlib.sha256(KEY.inner_pad + normalised_address(ANN).encode()).digest()
    ).hexdigest()
    assert KEY.pseudonym(ANN) == f"erased-{by_hand[:40]}@erased.invalid"
    other = ErasureKey("another secret, as long as the first")
    assert other.pseudonym(ANN) != KEY.pseudonym(ANN)
    assert other.key_id != KEY.key_id
    assert "secret" not in repr(KEY)


@pytest.mark.parametrize(
    "text",
    [
        "550 5.1.1 <{}>: unknown user",
        "Ann <{}>, Bob <bob@example.com>",
        '{{"to": "{}"}}',
        "https://shop.example/?email={}&x=1",
        "mailto:{}.",
        "\\u003c{}\\u003e",
        "line\\n{}\\n",
    ],
)
@pytest.mark.parametrize(
    "written",
    [
        "ann+news@b\u00fccher.example",
        "Ann+News@xn--bcher-kva.example",
        "ann%2Bnews%40xn--bcher-kva.example",
        "ann%2bnews%40b%C3%BCcher.example",
        "ann\\u002bnews\\u0040b\\u00fccher.example",
        "ann+news=xn--bcher-kva.example",
    ],
)
def test_a_text_that_names_the_person_has_the_pseudonym_instead(text: str, written: str) -> None:
    erased = person()
    named = text.format(written)
    assert erased.is_named_in(named)
    assert erased.without(named) == text.format(erased.pseudonym)


@pytest.mark.parametrize(
    "other",
    ["joann@example.com", "ann@example.com.au", "ann@example.community", "x-ann@example.com", "ann.b@example.com"],
)
def test_a_longer_address_is_somebody_else(other: str) -> None:
    erased = person("ann@example.com")
    assert not erased.is_same(other)
    assert not erased.is_named_in(other)
    assert erased.without(f"to <{other}>") == f"to <{other}>"
