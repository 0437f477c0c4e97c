"""Which addresses may be mailed."""

from __future__ import annotations

import sys
import unicodedata
from contextlib import suppress

import idna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_platform.domain.addresses import (
    CAPITAL_LETTERS,
    is_valid_address,
    mailable_address,
    normalised_address,
    trimmed_address,
)

VALID = [
    "a@b.co",
    "first.last+tag@example.com",
    "o'brien@example.co.uk",
    "!#$%&'*+/=?^_`{|}~-@example.com",
    "UPPER@EXAMPLE.COM",
    "  spaces.around@example.com ",
    "x@1-2.a-b.museum",
    "x@xn--bcher-kva.example",
    "a@exämple.com",
    "a@straße.example",
    "a@日本語。jp",
    "\ta@example.com",
    "a@example.com\n",
    "a@example.com\u00a0",
    "\u200bbob@example.com",
    "\ufeffcem@example.com\u2060\r",
    "l" * 64 + "@example.com",
    "x@" + "d" * 63 + ".com",
    "x@" + ".".join(["d" * 60] * 4) + ".examples",
]
INVALID = [
    None,
    "",
    " ",
    "@",
    "no-at.example.com",
    "two@at@example.com",
    "a@localhost",
    ".leading@example.com",
    "trailing.@example.com",
    "two..dots@example.com",
    "a@.example.com",
    "a@example.com.",
    "a@example..com",
    "a@-example.com",
    "a@example-.com",
    "a@example.123",
    "a@[192.0.2.1]",
    "a b@example.com",
    '"a b"@example.com',
    "a@exam ple.com",
    "a@example.com\r\nBcc: b@example.com",
    "a@example.com,b@example.com",
    "a@example.com;b@example.com",
    "Ada <a@example.com>",
    "<a@example.com>",
    "ä@example.com",
    "a\u200b@example.com",
    "a@exam\u200bple.com",
    "a@exä\u200bmple.com",
    "a@exä\nmple.com",
    "ä@exämple.com",
    "a@" + "ü" * 64 + ".example",
    "a\0@example.com",
    "l" * 65 + "@example.com",
    "x@" + "d" * 64 + ".com",
    "x@" + ".".join(["d" * 60] * 4) + ".exampless",
]


@pytest.mark.parametrize("address", VALID)
def test_an_ordinary_address_may_be_mailed(address: str) -> None:
    assert is_valid_address(address)


@pytest.mark.parametrize("address", INVALID)
def test_what_a_provider_would_refuse_or_misread_may_not_be_mailed(address: str | None) -> None:
    assert not is_valid_address(address)


@given(st.text(alphabet=st.sampled_from('aZ09.@-+ \n\r\t\0,;<>"ä'), max_size=30) | st.emails())
def test_a_valid_address_is_one_printable_ascii_word_with_one_at(address: str) -> None:
    if is_valid_address(address):
        trimmed = mailable_address(address)
        assert trimmed.isascii()
        assert trimmed.isprintable()
        assert not set(trimmed) & set(' ,;<>"()[]\\:')
        assert trimmed.count("@") == 1


def test_addresses_are_compared_without_spaces_around_and_without_case() -> None:
    assert normalised_address("  Ada@Example.COM ") == "ada@example.com"
    assert normalised_address("İI@example.com") == "İi@example.com", "letters beyond ASCII are left alone"


def test_what_a_spreadsheet_leaves_around_an_address_is_cut_off() -> None:
    for left_over in ("\u00a0 ", "\u200b", "\t", "\r", "\r\n", "\ufeff", "\u202a", "\u2060", "\u3000", "\u00ad"):
        assert trimmed_address(f"{left_over}ann@example.com{left_over}") == "ann@example.com"
    assert trimmed_address("\u00a0") == ""


def test_a_domain_in_another_script_is_mailed_in_its_ascii_form() -> None:
    assert mailable_address(" Ann@BÜCHER.Example") == "Ann@xn--bcher-kva.example"
    assert mailable_address("ann@faß.de") == "ann@xn--fa-hia.de", "IDNA 2008 keeps the letter"
    assert mailable_address("ann@παράδειγμα.δοκιμή") == "ann@xn--hxajbheg2az3al.xn--jxalpdlp"
    assert mailable_address("ann@\uff45\uff58ample\uff0ecom") == "ann@example.com"
    assert mailable_address("änn@example.com") == "änn@example.com"
    assert mailable_address("no domain ü") == "no domain ü"


@given(st.from_regex(r"[a-zà-öø-ÿа-яα-ω0-9一-十]{1,12}", fullmatch=True))
def test_the_ascii_form_is_that_of_the_idna_library(label: str) -> None:
    if label == unicodedata.normalize("NFKC", label) and not label.isascii():
        with suppress(idna.IDNAError):
            assert mailable_address(f"a@{label}.com") == f"a@{idna.encode(label).decode()}.com"


def test_one_address_in_several_spellings_is_one() -> None:
    spellings = [
        "ann@bücher.example",
        "ANN@BÜCHER.EXAMPLE",
        "Ann@xn--BCHER-kva.example",
        "\u00a0ann@bu\u0308cher.example\t",
    ]
    assert {normalised_address(one) for one in spellings} == {"ann@xn--bcher-kva.example"}
    assert normalised_address("I@example.com") == "i@example.com", "in Turkish too"


def test_no_capital_letter_is_left_out() -> None:
    everywhere = (chr(code) for code in range(0x80, sys.maxunicode + 1))
    capitals = (one for one in everywhere if unicodedata.ucd_3_2_0.category(one) in ("Lu", "Lt"))
    assert "".join(one for one in capitals if one.lower() != one and len(one.lower()) == 1) == CAPITAL_LETTERS
