"""Which addresses may be mailed, in which form, and when two addresses are the same one.

Invariant: an address that passes is plain ASCII without spaces, control characters or line breaks, so it can
neither break a header nor name a second recipient; PostgreSQL applies the same rules, and a property test compares
both.

**Trimming.** Spreadsheets and mail clients leave no-break spaces, tabs, line ends, byte order marks, zero-width and
direction marks around an address (`TRIMMED_CHARACTERS`). They are cut off; inside an address they make it invalid.

**Form that is mailed.** A domain in another script is mailed in its ASCII form (``xn--...``, RFC 5891): compatibility
forms are folded (NFKC), letters made small one by one, and each label that is not ASCII encoded (RFC 3492). Which
characters a registry allows is not checked: such a domain does not resolve, and the provider says so. ``ß`` and the
final sigma keep their own labels, as in IDNA 2008.

**Equality.** Two addresses are the same where their mailed forms are equal without ASCII case. So
``Ann@BÜCHER.example`` and ``ann@xn--bcher-kva.example`` are one address. The case of the local part is the
recipient's server's business (RFC 5321, section 2.4), but no server known keeps ``Ann`` and ``ann`` apart, and people
write both. No locale takes part: not Python's, and not the database's collation (under a Turkish one ``lower('I')``
is another letter).

**Validity** is narrower than RFC 5321 on purpose. Left out: quoted local parts (``"a b"@example.com``), address
literals (``a@[192.0.2.1]``), hosts without a dot, and a local part that is not ASCII: most providers, Amazon SES among
them, do not speak SMTPUTF8, so it would bounce.
"""

from __future__ import annotations

import re
import string
import unicodedata

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

TRIMMED_ASCII = "\t\n\v\f\r\x1c\x1d\x1e\x1f "
TRIMMED_CHARACTERS = TRIMMED_ASCII + "".join(
    chr(code)
    for first, last in (
        (0x85, 0x85),  # next line
        (0xA0, 0xA0),  # no-break space
        (0xAD, 0xAD),  # soft hyphen
        (0x61C, 0x61C),  # Arabic letter mark
        (0x1680, 0x1680),  # Ogham space
        (0x180E, 0x180E),  # Mongolian vowel separator
        (0x2000, 0x200F),  # spaces of all widths, zero-width ones, direction marks
        (0x2028, 0x202F),  # line and paragraph ends, embeddings, narrow no-break space
        (0x205F, 0x2064),  # mathematical space, word joiner, invisible operators
        (0x2066, 0x206F),  # isolates and their like
        (0x3000, 0x3000),  # ideographic space
        (0xFEFF, 0xFEFF),  # byte order mark
    )
    for code in range(first, last + 1)
)
"""What is cut off around an address."""

_FOLDED = [
    chr(code)
    for code in range(0x80, 0x11000)  # none is beyond; to look through all of Unicode takes each process 0.3 s
    if unicodedata.ucd_3_2_0.category(chr(code)) in ("Lu", "Lt") and len(chr(code).lower()) == 1
]
CAPITAL_LETTERS = "".join(letter for letter in _FOLDED if letter.lower() != letter)
"""Letters beyond ASCII that have a small form of one character, of Unicode 3.2: a list that no later version
changes."""
SMALL_LETTERS = "".join(letter.lower() for letter in CAPITAL_LETTERS)

_ADDRESS = re.compile(ADDRESS_PATTERN)
_LONG_LABEL = re.compile(LONG_LABEL_PATTERN)
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_LOWER = str.maketrans(string.ascii_uppercase + CAPITAL_LETTERS, string.ascii_lowercase + SMALL_LETTERS)
_IDEOGRAPHIC_STOP = "\u3002"


def trimmed_address(address: str) -> str:
    """The address without what a spreadsheet or a mail client left around it."""
    return address.strip(TRIMMED_CHARACTERS)


def mailable_address(address: str) -> str:
    """The form that is mailed: trimmed, the domain in ASCII; where it has no such form, it stays and is invalid.

    The same as the database's function ``mailable_email_address``.
    """
    trimmed = trimmed_address(address)
    if trimmed.isascii():
        return trimmed
    local, at, domain = trimmed.rpartition("@")
    return trimmed if not at or domain.isascii() else local + at + _domain_in_ascii(domain)


def normalised_address(address: str) -> str:
    """The form in which two addresses are compared, everywhere; the form of ``suppression.address``.

    The same as the database's function ``email_address_key``.
    """
    trimmed = address.strip(TRIMMED_CHARACTERS)
    return trimmed.lower() if trimmed.isascii() else mailable_address(address).translate(_ASCII_LOWER)


def _domain_in_ascii(domain: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", domain).translate(_LOWER))
    if any(character in folded for character in TRIMMED_CHARACTERS):
        return domain
    labels = folded.replace(_IDEOGRAPHIC_STOP, ".").split(".")
    try:
        return ".".join(
            label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii") for label in labels
        )
    except UnicodeError:  # half a surrogate pair, which PostgreSQL cannot even hold
        return domain


def is_valid_address(address: str | None) -> bool:
    """Whether the address, in the form that is mailed, may be mailed."""
    if address is None:
        return False
    mailable = mailable_address(address)
    return (
        len(mailable) <= MAX_ADDRESS_CHARACTERS
        and mailable.find("@") <= MAX_LOCAL_CHARACTERS
        and _ADDRESS.search(mailable) is not None
        and _LONG_LABEL.search(mailable) is None
    )
