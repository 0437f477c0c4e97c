"""Which addresses may be mailed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_platform.domain.addresses import is_valid_address, normalised_address

VALID = [
    "a@b.co",
    "first.last+tag@example.com",
    "o'brien@example.co.uk",
    "!#$%&'*+/=?^_`{|}~-@example.com",
    "UPPER@EXAMPLE.COM",
    "  spaces.around@example.com ",
    "x@1-2.a-b.museum",
    "x@xn--bcher-kva.example",
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
    "\ta@example.com",
    "a@example.com\n",
    "a@example.com\r\nBcc: b@example.com",
    "a@example.com,b@example.com",
    "a@example.com;b@example.com",
    "Ada <a@example.com>",
    "<a@example.com>",
    "ä@example.com",
    "a@exämple.com",
    "a\u200b@example.com",
    "a@example.com\u00a0",
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
        trimmed = address.strip(" ")
        assert trimmed.isascii()
        assert trimmed.isprintable()
        assert not set(trimmed) & set(' ,;<>"()[]\\:')
        assert trimmed.count("@") == 1


def test_addresses_are_compared_without_spaces_around_and_without_case() -> None:
    assert normalised_address("  Ada@Example.COM ") == "ada@example.com"
    assert normalised_address("İI@example.com") == "İi@example.com", "letters beyond ASCII are left alone"
