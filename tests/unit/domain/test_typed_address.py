"""What somebody gives as an address is refused with the reason, or kept in the form that is mailed everywhere."""

from __future__ import annotations

import pytest
from email_validator import validate_email
from hypothesis import given
from hypothesis import strategies as st

from email_platform.domain.addresses import is_valid_address, mailable_address, normalised_address
from email_platform.domain.typed_address import address_problem

PROBLEMS = {
    "": "is empty",
    "\u00a0\u200b": "is empty",
    "ann": "must have an @-sign",
    "ann..b@example.com": "two periods in a row",
    "ann@exa_mple.com": "invalid characters",
    "ann@example": "should have a period",
    "ann@shop.invalid": "reserved name",
    "ann@printer.local": "reserved name",
    "ann@xn--zzzzzz.com": "not valid IDNA",
    "ann@\u2603.com": "is invalid",
    "\u00e4nn@example.com": "Internationalized characters before the @-sign",
    '"ann b"@example.com': "Quoting",
    "ann@[192.0.2.1]": "bracketed IP address",
}


@pytest.mark.parametrize("typed", PROBLEMS)
def test_a_refusal_says_what_is_wrong_and_does_not_quote_the_address(typed: str) -> None:
    problem = address_problem(typed)
    assert problem is not None
    assert PROBLEMS[typed] in problem
    assert not typed.strip() or typed not in problem


@pytest.mark.parametrize(
    "typed", ["ann@example.com", " Ann+news@B\u00dcCHER.example\t", "o'neil@xn--bcher-kva.example"]
)
def test_an_ordinary_address_is_taken(typed: str) -> None:
    assert address_problem(typed) is None


_LABELS = st.from_regex(
    r"[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff\u0430-\u044f\u03b1-\u03c90-9-]{1,12}", fullmatch=True
)


@given(st.emails() | st.builds("{}@{}.{}".format, st.sampled_from(["ann", "O'Neil", "a+b"]), _LABELS, _LABELS))
def test_what_the_library_takes_is_compared_as_the_platform_compares_it(typed: str) -> None:
    if address_problem(typed) is not None:
        return
    by_the_library = validate_email(typed.strip(), check_deliverability=False, allow_smtputf8=False).ascii_email
    assert by_the_library is not None
    assert is_valid_address(mailable_address(typed))
    assert normalised_address(by_the_library) == normalised_address(typed)
