"""Which addresses may be mailed, and when two addresses are the same one.

Invariant: an address that passes is plain ASCII without spaces, control characters or line breaks, so it can
neither break a header nor name a second recipient; PostgreSQL applies the same rule, and a test compares both.

The rule is narrower than RFC 5321 on purpose. Left out: quoted local parts (``"a b"@example.com``), address
literals (``a@[192.0.2.1]``), hosts without a dot, and everything that is not ASCII: most providers, Amazon SES
among them, do not speak SMTPUTF8, so a non-ASCII local part would bounce. A domain in another script is mailed
in its ASCII form (``xn--...``).
"""

from __future__ import annotations

import re
import string

MAX_ADDRESS_CHARACTERS = 254  # RFC 5321's path of 256 with its angle brackets
MAX_LOCAL_CHARACTERS = 64
MAX_LABEL_CHARACTERS = 63

# Dot-separated atoms, one @, at least two labels, the last one beginning with a letter. No construct in these
# patterns means different things to Python and to PostgreSQL. `(?!\n)`: Python's `$` matches before a last \n.
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
ADDRESS_PATTERN = (
    rf"^{_ATOM}([.]{_ATOM})*@"
    r"([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?[.])+[A-Za-z]([A-Za-z0-9-]*[A-Za-z0-9])?$(?!\n)"
)
# A bounded repeat inside ADDRESS_PATTERN would do, but makes PostgreSQL's expression far larger.
LONG_LABEL_PATTERN = f"@.*[A-Za-z0-9-]{{{MAX_LABEL_CHARACTERS + 1}}}"

_ADDRESS = re.compile(ADDRESS_PATTERN)
_LONG_LABEL = re.compile(LONG_LABEL_PATTERN)
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def normalised_address(address: str) -> str:
    """The form in which two addresses are compared: without spaces around, ASCII letters in lower case.

    The same as SQL's ``lower(btrim(address) collate "C")``, and the form of ``suppression.address``.
    """
    return address.strip(" ").translate(_ASCII_LOWER)


def is_valid_address(address: str | None) -> bool:
    """Whether the address, without spaces around it, may be mailed."""
    if address is None:
        return False
    trimmed = address.strip(" ")
    return (
        len(trimmed) <= MAX_ADDRESS_CHARACTERS
        and trimmed.find("@") <= MAX_LOCAL_CHARACTERS
        and _ADDRESS.search(trimmed) is not None
        and _LONG_LABEL.search(trimmed) is None
    )
