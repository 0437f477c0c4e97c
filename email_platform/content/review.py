"""What is likely to be wrong with a finished message: what its template allows, and its recipients would regret.

Invariant: nothing is fetched and nothing refused; each remark names what it found and how to mend it, once a message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from urllib.parse import urlsplit

_LINKED = {"a": "href", "area": "href", "img": "src"}
_SCHEMES = frozenset({"http", "https", "mailto", "tel", "sms", "cid", "data"})
_LEFT_OVER = re.compile(r"\{\{|\}\}|\{%|%\}|%7B%7B|\*\|[A-Z_]+\|\*|\[\[[A-Za-z_ ]+\]\]", re.IGNORECASE)
_IN_ANGLES = re.compile(r"<(https?://[^>]+)>")
_HOST = re.compile(r"[^\s.][^\s]*\.[^\s.]+|localhost|\[[0-9A-Fa-f:.]+\]")
_LONGEST_SHOWN = 80
_MANY_CAPITALS = 0.7
_SHORT_SUBJECT = 8


def review_message(subject: str, html: str, text: str, headers: Mapping[str, str]) -> tuple[str, ...]:
    """Remarks on one message, each once, in the order of its parts; empty where there is nothing to say.

    | what is looked at | remark |
    | --- | --- |
    | the body | no unsubscribe link such as its ``List-Unsubscribe`` header has (RFC 8058; readers look in the body) |
    | the parts | no text part: readers of plain text see nothing |
    | images | no ``alt`` attribute (an empty one says: decoration) |
    | links and images | no address, an unknown scheme, no host, a blank inside, relative, an anchor that is nowhere |
    | all of it | what a template leaves over: ``{{``, ``%}``, ``*|NAME|*`` |
    | the subject | empty, in capitals, ``Re:`` without a reply, several exclamation marks |
    """
    page = _Page()
    page.feed(html)
    page.close()
    return tuple(
        dict.fromkeys(
            [*_subject(subject), *_body(page, html, text, headers), *_links(page), *_left(subject, page, text)]
        )
    )


def _subject(subject: str) -> Iterator[str]:
    letters = [one for one in subject if one.isalpha()]
    if not subject.strip():
        yield "the subject is empty: write one"
    if len(letters) >= _SHORT_SUBJECT and sum(one.isupper() for one in letters) > _MANY_CAPITALS * len(letters):
        yield "the subject is in capitals, which filters take for spam: write it in ordinary letters"
    if re.match(r"\s*(re|fwd?|aw|wg)\s*:", subject, re.IGNORECASE):
        yield "the subject looks like a reply or a forward, and is none: remove its first word"
    if subject.count("!") > 1:
        yield "the subject has several exclamation marks, which filters take for spam: leave one"


def _body(page: _Page, html: str, text: str, headers: Mapping[str, str]) -> Iterator[str]:
    listed = {name.lower(): value for name, value in headers.items()}.get("list-unsubscribe", "")
    wanted = _IN_ANGLES.findall(listed)
    for part, present, has in (
        ("html", html, any(url in page.addresses("href") for url in wanted)),
        ("text", text, any(url in text for url in wanted)),
    ):
        if present.strip() and not has:
            yield f"the {part} part has no unsubscribe link: put {{{{ unsubscribe_url }}}} into it"
    if not text.strip():
        yield "there is no text part: give `text` or `text_file`"
    if not html.strip():
        yield "there is no html part: opens and clicks cannot be seen"
    if page.images_without_alt:
        yield f'{page.images_without_alt} images have no alt: say what they show, or alt="" for decoration'


def _links(page: _Page) -> Iterator[str]:
    for tag, address in page.links:
        if problem := _problem(tag, address, page.anchors):
            yield f"<{tag}> {problem}"


def _problem(tag: str, address: str | None, anchors: set[str]) -> str | None:
    name = _LINKED[tag]
    if address is None:
        return f"has no {name}" if tag == "img" else None  # an anchor's own name has none
    address = address.strip()
    shown = repr(address if len(address) <= _LONGEST_SHOWN else address[:_LONGEST_SHOWN] + " …")
    if not address or address == "#":
        return f"has an empty {name}: give it an address"
    if _LEFT_OVER.search(address):
        return None  # one finding for all left-overs
    if address.startswith("#"):
        return None if address[1:] in anchors else f"leads to {shown}, which is nowhere in the message"
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return f"has an address that cannot be read: {shown}"
    if not parts.scheme:
        return f"has an address without https://, which leads nowhere from a mailbox: {shown}"
    if parts.scheme.lower() not in _SCHEMES:
        return f"has an address that mail programs do not open: {shown}"
    if parts.scheme.lower() in ("http", "https") and not _HOST.fullmatch(host):
        return f"has an address without a host: {shown}"
    if re.search(r"\s", address):
        return f"has a blank in its address: {shown}"
    if parts.scheme.lower() == "mailto" and "@" not in parts.path and "to=" not in parts.query:
        return f"has a mailto: without an address: {shown}"
    return None


def _left(subject: str, page: _Page, text: str) -> Iterator[str]:
    html_words = " ".join([*page.words, *(address for _, address in page.links if address)])
    for part, words in (("subject", subject), ("html part", html_words), ("text part", text)):
        if found := _LEFT_OVER.search(words):
            yield f"the {part} has {found.group()!r}, which looks like a left-over of a template"


class _Page(HTMLParser):
    """The links, images and words of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[tuple[str, str | None]] = []
        self.anchors: set[str] = set()
        self.words: list[str] = []
        self.images_without_alt = 0
        self._unseen = 0  # inside style and script

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        if tag in ("style", "script"):
            self._unseen += 1
        if tag in _LINKED:
            address = values.get(_LINKED[tag], None if _LINKED[tag] not in values else "")
            self.links.append((tag, "" if address is None and _LINKED[tag] in values else address))
        if tag == "img" and "alt" not in values:
            self.images_without_alt += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "script"):
            self._unseen = max(0, self._unseen - 1)

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.words.append(data)

    def addresses(self, name: str) -> set[str]:
        """The addresses that links of this attribute lead to."""
        return {address for tag, address in self.links if address and _LINKED[tag] == name}
