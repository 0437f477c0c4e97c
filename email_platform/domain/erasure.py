"""What stands in the place of a person who was erased, and how the person is found in cells and texts.

Invariant: a pseudonym is a keyed hash (HMAC-SHA256, RFC 2104) of the address as addresses are compared
(`email_platform.domain.addresses.normalised_address`): every spelling that compares equal has the same pseudonym, and
nobody without the key can tell, or try out, whose it is. It is a valid address of a domain that nobody can have
(``.invalid``, RFC 2606), so a row with it is read and counted like any other and can reach nobody.

The database's function ``erased_address`` gives the same; it takes the two padded keys of RFC 2104, so that the key
itself is in no table and PostgreSQL needs no extension.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from typing import Protocol
from urllib.parse import quote, unquote

from email_platform.domain.addresses import normalised_address

PSEUDONYM_START = "erased-"
PSEUDONYM_END = "@erased.invalid"
PSEUDONYM_HEX_DIGITS = 40
_BLOCK_BYTES = 64
_LIKE_AN_ADDRESS = re.compile(r"[^\s<>\"',;:()\[\]\\\\@&?]+@[^\s<>\"',;:()\[\]\\\\@&?/]+")
_JSON_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_ALNUM_RUN = re.compile("[A-Za-z0-9]+")


class ErasureKey:
    """The key of pseudonyms; shows nothing of itself.

    Args:
        secret: of the setting; whoever has it can tell whether an address was erased.

    Attributes:
        key_id: names the key without revealing it, so that hashes of another key are recognised as such.
        inner_pad, outer_pad: the key combined with the pads of RFC 2104, section 2, of 64 bytes each.
    """

    def __init__(self, secret: str) -> None:
        self._key = sha256(b"email-platform erasure\0" + secret.encode()).digest()
        self.key_id = hmac.new(self._key, b"which key", sha256).hexdigest()[:16]
        padded = self._key.ljust(_BLOCK_BYTES, b"\0")
        self.inner_pad = bytes(one ^ 0x36 for one in padded)
        self.outer_pad = bytes(one ^ 0x5C for one in padded)

    def __repr__(self) -> str:
        return f"ErasureKey({self.key_id})"

    def pseudonym(self, address: str) -> str:
        """What stands in the place of the address; of a pseudonym the same again."""
        if is_pseudonym(address):
            return address
        digest = hmac.new(self._key, normalised_address(address).encode("utf-8", "surrogatepass"), sha256).hexdigest()
        return f"{PSEUDONYM_START}{digest[:PSEUDONYM_HEX_DIGITS]}{PSEUDONYM_END}"


def is_pseudonym(address: str) -> bool:
    """Whether the text stands in the place of an address that was erased."""
    return address.startswith(PSEUDONYM_START) and address.endswith(PSEUDONYM_END)


def pseudonyms_of(key: ErasureKey, addresses: Iterable[str]) -> dict[str, str]:
    """The pseudonym of each address."""
    return {address: key.pseudonym(address) for address in addresses}


class ErasedLookup(Protocol):
    """Who was erased."""

    def is_empty(self) -> bool:
        """Whether nobody was, so that nobody needs to be looked for.

        Raises:
            ConfigurationError: somebody was, under another key than this process has.
        """
        ...

    def pseudonyms(self, addresses: Collection[str]) -> Mapping[str, str]:
        """Of these addresses those that were erased, each with what stands in its place.

        Raises:
            ConfigurationError: as `is_empty`.
        """
        ...


class NobodyErased:
    """`ErasedLookup` where nobody was."""

    def is_empty(self) -> bool:
        """True."""
        return True

    def pseudonyms(self, addresses: Collection[str]) -> Mapping[str, str]:
        """None of them."""
        return {}


def erased_among(lookup: ErasedLookup, texts: Iterable[str]) -> list[ErasedPerson]:
    """The people who were erased and whose address these texts name, plainly or escaped for JSON or a URL."""
    if lookup.is_empty():
        return []
    named = {token for one in texts for token in _addresses_in(one)}
    return [ErasedPerson(address, pseudonym) for address, pseudonym in lookup.pseudonyms(named).items()]


def _addresses_in(text: str) -> set[str]:
    """What looks like an address, also in the plain form of what is escaped."""
    forms = [text]
    if "%40" in text:
        forms.append(unquote(text))
    if "\\u" in text:
        forms.append(_JSON_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text))
    return {
        start
        for form in forms
        for found in _LIKE_AN_ADDRESS.findall(form)
        for one in (found.strip(".'"), found.rpartition("=")[2])
        for start in (one, one.lstrip("-_+'"))
        if "@" in start[1:]
    }


class ErasedPerson:
    """Finds one address, in whichever spelling, and puts the pseudonym in its place.

    In a text the address is found as people and machines write it: plain, with its domain in another script, escaped
    for a URL or for JSON, and with ``=`` for the ``@`` (variable envelope return paths). Not as a part of a longer
    address.

    Args:
        address: in any spelling.
        pseudonym: `ErasureKey.pseudonym` of it.

    Attributes:
        address: as addresses are compared (`normalised_address`).
        needle: every text that names the address has these letters, in either case: for a quick search by an engine.
    """

    def __init__(self, address: str, pseudonym: str) -> None:
        self.address = normalised_address(address)
        self.pseudonym = pseudonym
        local, _, domain = self.address.rpartition("@")
        plain_domain = "" if "xn--" in domain else domain  # it is written in one way only
        runs = _ALNUM_RUN.findall(local) or _ALNUM_RUN.findall(plain_domain)
        self.needle = max(runs, key=len, default="")
        spelled_domains = {domain, _in_its_script(domain)}
        domains = {
            re.escape(form)
            for one in spelled_domains
            for form in (one, quote(one), quote(one).lower(), json.dumps(one)[1:-1])
        }
        longest_first = sorted(domains, key=len, reverse=True)
        # Before it no character of a longer local part; `=` may end a key of a URL, and `c` an escaped `<`.
        self._pattern = re.compile(
            rf"(?:(?<![A-Za-z0-9.+_-])|(?<=\\u003c)|(?<=%3c)|(?<=%3d)|(?<=%3a)|(?<=%22)|(?<=\\n)|(?<=\\t)|(?<=\\r))"
            rf"{''.join(map(_escaped, local))}(?:@|=|%40|\\u0040|&#64;)(?:{'|'.join(longest_first)})"
            r"(?![A-Za-z0-9-])(?!\.[A-Za-z0-9])",
            re.IGNORECASE,
        )

    def __repr__(self) -> str:
        return f"ErasedPerson({self.pseudonym})"

    def is_same(self, address: str | None) -> bool:
        """Whether the text is the address, in any spelling that compares equal."""
        return address is not None and self.needle in address.lower() and normalised_address(address) == self.address

    def is_named_in(self, text: str | None) -> bool:
        """Whether the text is the address or names it."""
        if text is None or self.needle not in text.lower():
            return False
        return self._pattern.search(text) is not None or normalised_address(text) == self.address

    def without(self, text: str) -> str:
        """The text with the pseudonym wherever the address is named."""
        if self.needle not in text.lower():
            return text
        if normalised_address(text) == self.address:
            return self.pseudonym
        return self._pattern.sub(self.pseudonym, text)


def _escaped(character: str) -> str:
    if character.isalnum():
        return character
    return f"(?:{re.escape(character)}|%{ord(character):02x}|\\\\u{ord(character):04x})"


def _in_its_script(domain: str) -> str:
    """The domain with its labels as people read them; a label that is no punycode stays."""
    labels = []
    for label in domain.split("."):
        try:
            labels.append(label[4:].encode().decode("punycode") if label.startswith("xn--") else label)
        except UnicodeError:
            labels.append(label)
    return ".".join(labels)
