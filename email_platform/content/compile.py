"""Compiles a campaign's content and says which variables it uses and requires.

Invariant: content that compiles and passes `check_content` names only variables that exist.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from jinja2 import TemplateSyntaxError, UndefinedError, meta, nodes

from email_platform.content.analysis import CONTENT_FIELDS, LEAD_FIELDS, Reader, written_names
from email_platform.content.budget import MAXIMUM_VALUE_CHARACTERS
from email_platform.content.pieces import Pieces, cut
from email_platform.content.sandbox import Sandbox
from email_platform.domain.campaigns import CampaignContent
from email_platform.errors import InvalidTemplateError

MAXIMUM_TEMPLATE_CHARACTERS = 512_000
MAXIMUM_TEMPLATE_NODES = 30_000  # compiling takes up to 10 kB for each


@dataclass(frozen=True, slots=True)
class ContentLimits:
    """How large one rendered message may be.

    Attributes:
        subject_characters: a longer subject is cut (998 is RFC 5322's longest line).
        html_bytes, text_bytes: of the UTF-8 encoding; a larger body is an error.
    """

    subject_characters: int = 998
    html_bytes: int = 1_000_000
    text_bytes: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Part:
    """One template of a message.

    Attributes:
        name: ``subject``, ``html`` or ``text``.
        environment: the sandbox it is compiled for.
        pieces: what it is made of.
        used, required: variables, as in `CompiledContent`.
        lines: where each variable is used first.
    """

    name: str
    environment: Sandbox
    pieces: Pieces
    used: frozenset[str]
    required: frozenset[str]
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class CompiledContent:
    """A campaign's content, compiled and analysed; rendering it touches nothing outside.

    Attributes:
        subject, html, text: the templates, cut into static text and pieces.
        limits: how large one rendered message may be.
    """

    subject: Part
    html: Part
    text: Part
    limits: ContentLimits = field(default_factory=ContentLimits)

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        """Subject, html, text."""
        return self.subject, self.html, self.text

    def maximum_bytes(self, part: str) -> int:
        """How long the part's output may be."""
        if part == "subject":
            return MAXIMUM_VALUE_CHARACTERS
        return self.limits.html_bytes if part == "html" else self.limits.text_bytes

    @property
    def used(self) -> frozenset[str]:
        """Every variable named, dotted: ``first_name``, ``campaign.id``, ``attributes.score``."""
        return self.subject.used | self.html.used | self.text.used

    @property
    def required(self) -> frozenset[str]:
        """Those of them that a recipient must have: used somewhere without default or guard."""
        return self.subject.required | self.html.required | self.text.required

    @property
    def used_columns(self) -> tuple[str, ...]:
        """The manifest's columns that rendering reads."""
        columns = [name for name in LEAD_FIELDS if name in self.used]
        return (*columns, "attributes") if any(name.startswith("attributes.") for name in self.used) else (*columns,)

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The manifest's nullable columns in which a NULL makes a recipient impossible to render."""
        return tuple(name for name in LEAD_FIELDS if name in self.required)


def required_attributes(compiled: CompiledContent) -> frozenset[str]:
    """Dotted keys of ``attributes`` that every recipient must have, such as ``score`` or ``address.street``."""
    return frozenset(name.removeprefix("attributes.") for name in compiled.required if name.startswith("attributes."))


def compile_content(content: CampaignContent, limits: ContentLimits | None = None) -> CompiledContent:
    """Compile subject, html and text.

    Raises:
        InvalidTemplateError: a syntax error, with part and line; or something that is not allowed.
    """
    if not content.subject_template.strip():
        raise InvalidTemplateError("subject template: is empty")
    if not content.html_template.strip() and not content.text_template.strip():
        raise InvalidTemplateError("html and text templates: both are empty")
    return CompiledContent(
        _compile_part("subject", content.subject_template, autoescape=False),
        _compile_part("html", content.html_template, autoescape=True),
        _compile_part("text", content.text_template, autoescape=False),
        limits=limits or ContentLimits(),
    )


def check_content(compiled: CompiledContent, fields: Collection[str] = CONTENT_FIELDS) -> None:
    """Return where every variable named exists for campaigns in general.

    Raises:
        InvalidTemplateError: names the unknown variable and the nearest known ones.
    """
    for part in compiled.parts:
        for name in sorted(part.used):
            if name in fields or name.startswith("attributes."):
                continue
            near = get_close_matches(name, fields, n=2, cutoff=0.6)
            near += [each for each in sorted(fields) if each.startswith(f"{name}.") and each not in near]
            meant = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(fields))}."
            place = f"{part.name} template, line {part.lines[name]}" if name in part.lines else f"{part.name} template"
            raise InvalidTemplateError(
                f"{place}: unknown variable {name!r}: {meant} A key of the lead's attributes is written "
                f"attributes.{name}"
            )


def _compile_part(part: str, source: str, *, autoescape: bool) -> Part:
    if len(source) > MAXIMUM_TEMPLATE_CHARACTERS:
        raise InvalidTemplateError(f"{part} template: longer than {MAXIMUM_TEMPLATE_CHARACTERS:,} characters")
    try:
        source.encode()
    except UnicodeEncodeError as error:
        line = source.count("\n", 0, error.start) + 1
        raise InvalidTemplateError(
            f"{part} template, line {line}: holds half a surrogate pair, which is no character; write it again"
        ) from None
    environment = Sandbox(autoescape)
    try:
        tree = environment.parse(source)
        if any(count >= MAXIMUM_TEMPLATE_NODES for count, _ in enumerate(tree.find_all(nodes.Node))):
            raise InvalidTemplateError(
                f"{part} template: holds more than {MAXIMUM_TEMPLATE_NODES:,} names, constants, operators and tags"
            )
        reader = Reader(part, tree)
        undeclared = meta.find_undeclared_variables(tree)
        environment.written_names = written_names(tree)
        pieces = cut(tree, environment)
    except TemplateSyntaxError as error:
        raise InvalidTemplateError(f"{part} template, line {error.lineno}: {error.message}") from error
    except (SyntaxError, RecursionError, MemoryError, OverflowError, ValueError) as error:
        raise InvalidTemplateError(f"{part} template: too deeply nested or too large to compile") from error
    except (UndefinedError, TypeError) as error:
        # Jinja computes what names no variable while it compiles, and lets out what goes wrong in `~`, `and`, `or`,
        # `if … else` and dictionaries (`jinja2.optimizer`, which catches `Impossible` alone).
        line = _line_of_faulty_constant(tree, environment)
        raise InvalidTemplateError(f"{part} template, line {line}: {error}; the same for every recipient") from error
    # A local name used outside its scope is as unknown as one that was never set.
    used = reader.used | (undeclared & reader.local_names)
    lines = {**_first_lines(tree, undeclared & reader.local_names), **reader.lines}
    return Part(part, environment, pieces, frozenset(used), frozenset(reader.required), lines)


def _line_of_faulty_constant(tree: nodes.Template, environment: Sandbox) -> int:
    """Where the first expression begins that names no variable and has no value; 1 where none is found."""
    context = nodes.EvalContext(environment)
    for node in tree.find_all(nodes.Expr):
        try:
            node.as_const(context)
        except nodes.Impossible:
            continue
        except (UndefinedError, TypeError):
            return node.lineno
    return 1


def _first_lines(tree: nodes.Template, names: Collection[str]) -> dict[str, int]:
    """Where these names are read first."""
    lines: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        if node.name in names and node.ctx == "load":
            lines.setdefault(node.name, node.lineno)
    return lines
