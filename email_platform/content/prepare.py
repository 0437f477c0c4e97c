"""What is done to a campaign's html once, before its templates are compiled: MJML to html, style sheets inlined.

Invariant: every tag and expression of the template stands in the result, unchanged and in its order, or the content is
refused. The libraries know nothing of Jinja: each construct is taken out before, stands in as a comment (in text,
where HTML's parsing rules let a comment stand anywhere, also between the rows of a table: HTML standard, 13.2.6.4.9
"in table") or as a word (in attributes, style sheets and titles), and is put back afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

from css_inline import CSSInliner, InlineError
from jinja2 import TemplateSyntaxError
from mrml import ParserOptions as MjmlOptions
from mrml import noop_loader, to_html

from email_platform.content.sandbox import Sandbox
from email_platform.domain.campaigns import CampaignContent
from email_platform.errors import InvalidTemplateError

_OPENING = frozenset({"variable_begin", "block_begin", "comment_begin", "raw_begin"})
_CLOSING = {"variable_begin": "variable_end", "block_begin": "block_end", "comment_begin": "comment_end"}
_RAW_TEXT = ("style", "script", "title", "textarea", "mj-style", "mj-title", "mj-preview")


def prepared_content(content: CampaignContent) -> CampaignContent:
    """The content with nothing left to be done but compiling it.

    Raises:
        InvalidTemplateError: the html cannot be read, or a tag of the template would not survive.
    """
    html = content.html_template
    if content.mjml:
        html = _around_jinja(html, _from_mjml, "MJML")
    if content.inline_css:
        html = _around_jinja(html, _inlined, "inlining of style sheets")
    return replace(content, html_template=html, mjml=False, inline_css=False)


def _from_mjml(source: str) -> str:
    try:
        return str(to_html(source, parser_options=MjmlOptions(include_loader=noop_loader())).content)
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidTemplateError(f"html template: no valid MJML: {error}") from error
    except BaseException as panic:
        raise _refused(panic, "the MJML reader") from None


def _inlined(source: str) -> str:
    inliner = CSSInliner(keep_at_rules=True, load_remote_stylesheets=False)
    try:
        return str(inliner.inline(source))
    except (InlineError, ValueError) as error:
        raise InvalidTemplateError(f"html template: style sheets cannot be inlined: {error}") from error
    except BaseException as panic:
        raise _refused(panic, "the reader of style sheets") from None


def _refused(panic: BaseException, reader: str) -> BaseException:
    """A panic of a library in Rust as a refusal; anything else unchanged.

    PyO3 derives its PanicException from BaseException ("similar to SystemExit", its guide says) and gives no module to
    import it from: one template would end the process that checks everybody's campaigns.
    """
    if type(panic).__name__ != "PanicException":
        return panic
    return InvalidTemplateError(
        f"html template: {reader} stumbles over it, often over a letter that is no ASCII in or beside a broken tag; "
        "check the tags, or write the letter as an entity such as &eacute;"
    )


def _around_jinja(source: str, change: object, what: str) -> str:
    assert callable(change)
    word = "jinja" + sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:12] + "x"
    place = _Place()
    kept: list[str] = []
    masked: list[str] = []
    for line, is_code, text in _segments(source):
        if not is_code:
            place.read(text)
            masked.append(text)
            continue
        stands_in = f"{word}{len(kept)}z"
        kept.append(text)
        if place.in_tag:
            raise InvalidTemplateError(
                f"html template, line {line}: {what} needs template tags to stand in an attribute's quotes or between "
                f"elements, not among the attributes of one"
            )
        masked.append(stands_in if place.in_value or place.in_raw_text or place.in_comment else f"<!--{stands_in}-->")
    changed = change("".join(masked))
    found = [int(number) for number in re.findall(f"{word}([0-9]+)z", changed)]
    lost = sorted(set(range(len(kept))) - set(found))
    if lost:
        raise InvalidTemplateError(f"html template: {what} would lose {kept[lost[0]][:60]!r}; put it elsewhere")
    pattern = re.compile(f"<!--{word}([0-9]+)z-->|{word}([0-9]+)z")
    return pattern.sub(lambda match: kept[int(match.group(1) or match.group(2))], changed)


def _segments(source: str) -> Iterator[tuple[int, bool, str]]:
    """The source in order: line, whether it is Jinja, text."""
    try:
        tokens = list(Sandbox(autoescape=True).lex(source))
    except TemplateSyntaxError as error:
        raise InvalidTemplateError(f"html template, line {error.lineno}: {error.message}") from error
    code: list[str] = []
    ends_with = ""
    began = 1
    for line, kind, text in tokens:
        if not ends_with and kind in _OPENING:
            began, ends_with = line, _CLOSING.get(kind, "raw_end")
        if not ends_with:
            yield line, False, text
            continue
        code.append(text)
        if kind == ends_with:
            yield began, True, "".join(code)
            code.clear()
            ends_with = ""
    if code:
        yield began, True, "".join(code)


class _Place:
    """Where in the HTML the reading has come to: enough of its tokenizer to know what may stand there."""

    def __init__(self) -> None:
        self.in_tag = self.in_value = self.in_comment = self.in_raw_text = False
        self._quote = ""
        self._raw_element = ""
        self._tag = ""

    def read(self, text: str) -> None:
        at = 0
        while at < len(text):
            at = self._step(text, at)

    def _step(self, text: str, at: int) -> int:
        if self.in_comment:
            end = text.find("-->", at)
            self.in_comment = end < 0
            return len(text) if end < 0 else end + 3
        if self.in_raw_text:
            match = re.compile(f"</{self._raw_element}", re.IGNORECASE).search(text, at)
            self.in_raw_text = match is None
            return len(text) if match is None else match.start()
        if self.in_value:
            end = text.find(self._quote, at)
            self.in_value, self.in_tag = end < 0, end >= 0
            return len(text) if end < 0 else end + 1
        if self.in_tag:
            return self._in_tag(text, at)
        start = text.find("<", at)
        if start < 0:
            return len(text)
        if text.startswith("<!--", start):
            self.in_comment = True
            return start + 4
        match = re.compile(r"</?([A-Za-z][A-Za-z0-9:-]*)").match(text, start)
        if match is None:
            return start + 1
        self.in_tag, self._tag = True, text[start : match.end()].lower()
        return match.end()

    def _in_tag(self, text: str, at: int) -> int:
        character = text[at]
        if character in "\"'":
            self.in_tag, self.in_value, self._quote = False, True, character
        elif character == ">":
            self.in_tag = False
            if self._tag[1:] in _RAW_TEXT and text[at - 1] != "/":
                self.in_raw_text, self._raw_element = True, self._tag[1:]
        return at + 1
