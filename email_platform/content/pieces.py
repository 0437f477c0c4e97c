"""Cuts one template into static text and pieces whose output is a recipient's value.

Invariant: the static text with the pieces' outputs in their places is, character for character, what Jinja renders
for the whole template.

A piece is an expression, a loop, an ``if`` or another construct at the top level of the template. Three kinds:

- *direct*: a variable, with or without a default. Looked up without Jinja.
- *computed*: everything else. All computed pieces of a template run as one Jinja program, in order, so that a
  ``{% set %}`` at the top level keeps its meaning for what comes after it.
- *constant*: depends on the campaign alone. Computed once, and part of the static text from then on.

Equal pieces share one value where no ``{% set %}`` can make them differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from jinja2 import Template, nodes
from jinja2.runtime import Context, Undefined
from jinja2.utils import pass_context
from markupsafe import escape

from email_platform.content.analysis import LEAD_FIELDS
from email_platform.content.budget import Budget
from email_platform.content.metering import Metering
from email_platform.content.sandbox import BUDGET, RANGE, MissingValue, Sandbox

_OUTPUTS = "_outputs"
_OF_THE_CAMPAIGN = frozenset({"campaign", "range", "loop"})
_DIRECT_NAMES = frozenset({*LEAD_FIELDS, "unsubscribe_url"})
_NO_DEFAULT = object()
_TO_ESCAPE = re.compile(r"""[&<>'"]""")


def escaped(text: str) -> str:
    """The text as html, as `markupsafe.escape` writes it; most texts have nothing to escape, and a search is cheap."""
    return str(escape(text)) if _TO_ESCAPE.search(text) else text


@dataclass(frozen=True, slots=True)
class Direct:
    """A variable that is looked up without Jinja.

    Attributes:
        root: a column of the lead, ``unsubscribe_url`` or ``attributes``.
        steps: below ``attributes``: whether written as ``['key']`` or ``[0]``, and the key or position.
        default: what stands there for a missing value; None where a missing value is an error.
        default_for_false: whether the default also stands for what counts as false, such as an empty text.
        escaped: whether the value stands in html.
    """

    root: str
    steps: tuple[tuple[bool, str | int], ...]
    default: str | None
    default_for_false: bool
    escaped: bool

    @property
    def name(self) -> str:
        """As it is written, dotted."""
        return ".".join([self.root, *(str(step) for _, step in self.steps)])

    def text(self, value: Any) -> str:
        """What stands in the message for this value; None and undefined count as missing.

        Raises:
            UndefinedError: it is missing and has no default.
        """
        if value is None or isinstance(value, Undefined) or (self.default_for_false and not value):
            if self.default is None:
                MissingValue(name=self.name)._fail_with_undefined_error()
            return self.default
        if type(value) is str:
            return escaped(value) if self.escaped else value
        if isinstance(value, int | float | Decimal):
            return str(value)  # digits, letters, signs: nothing to escape
        return str(escape(value)) if self.escaped else str(value)


@dataclass(frozen=True, slots=True)
class Computed:
    """The output of one piece of a program."""

    index: int


@dataclass(frozen=True, slots=True)
class Constant:
    """The output of one piece of the program that depends on the campaign alone."""

    index: int


Slot = str | Direct | Computed | Constant


@dataclass(frozen=True, slots=True)
class Program:
    """Pieces that Jinja computes together, in order.

    Attributes:
        template: prints nothing but the pieces, each followed by a mark.
        count: how many pieces.
    """

    template: Template
    count: int

    def run(self, variables: Mapping[str, Any], budget: Budget) -> list[str]:
        """Each piece's output.

        Raises:
            Exception: whatever a template may raise.
        """
        outputs: list[str] = []
        written: list[str] = []

        def mark() -> None:
            outputs.append("".join(written))
            written.clear()

        context = self.template.new_context({**variables, "range": RANGE, BUDGET: budget, _OUTPUTS: mark}, shared=True)
        for text in self.template.root_render_func(context):
            written.append(text)  # noqa: PERF402 - a mark between two texts empties the list
        return outputs


@dataclass(frozen=True, slots=True)
class Pieces:
    """One template, cut.

    Attributes:
        slots: static text, and what stands between.
        program: the computed pieces, or None where there is nothing to run.
        constants: the constant ones, likewise.
    """

    slots: tuple[Slot, ...]
    program: Program | None
    constants: Program | None


def cut(tree: nodes.Template, environment: Sandbox) -> Pieces:
    """Cut a parsed template whose names and constructs have been checked; takes the tree apart.

    Raises:
        SyntaxError, RecursionError, MemoryError, …: it cannot be compiled.
    """
    environment.filters["_mark"] = _mark
    return _Cutter(tree, environment).pieces()


@pass_context
def _mark(context: Context, _: int) -> None:
    context.parent[_OUTPUTS]()


class _Cutter:
    def __init__(self, tree: nodes.Template, environment: Sandbox) -> None:
        self._tree = tree
        self._environment = environment
        self._metering = Metering(environment)
        self._assigned, self._constant_names = _assigned_names(tree)
        self._slots: list[Slot] = []
        self._bodies: dict[type[Computed] | type[Constant], list[nodes.Node]] = {Computed: [], Constant: []}
        self._counts = {Computed: 0, Constant: 0}
        self._needed = {Computed: False, Constant: False}
        self._seen: dict[str, Computed | Constant] = {}  # by the piece's tree

    def pieces(self) -> Pieces:
        for statement in self._tree.body:
            if isinstance(statement, nodes.Output):
                for expression in statement.nodes:
                    self._add_output(expression)
            elif isinstance(statement, nodes.Assign):
                if self._is_constant(statement):
                    self._bodies[Constant].append(_copied(statement))
                else:
                    self._needed[Computed] = True  # it may fail for a recipient
                self._bodies[Computed].append(statement)
            else:
                self._slots.append(self._piece(statement, statement))
        return Pieces(tuple(self._joined()), self._program(Computed), self._program(Constant))

    def _add_output(self, expression: nodes.Expr) -> None:
        if isinstance(expression, nodes.TemplateData):
            self._slots.append(expression.data)
        elif (direct := _direct(expression, self._environment)) is not None:
            self._slots.append(direct)
        else:
            output = nodes.Output([expression], lineno=expression.lineno, environment=self._environment)
            self._slots.append(self._piece(expression, output))

    def _piece(self, key: nodes.Node, statement: nodes.Node) -> Computed | Constant:
        shareable = not (_names(key) & self._assigned) and key.find(nodes.Assign) is None
        if shareable:
            seen = self._seen.get(repr(key))
            if seen is not None:
                return seen
        kind = Constant if self._is_constant(key) else Computed
        slot = kind(self._counts[kind])
        self._counts[kind] += 1
        self._needed[kind] = True
        if shareable:
            self._seen[repr(key)] = slot
        self._bodies[kind] += [statement, self._metering.spend("_mark", slot.index, statement)]
        return slot

    def _is_constant(self, node: nodes.Node) -> bool:
        if isinstance(node, nodes.Assign):
            return _targets(node) <= self._constant_names and self._is_constant(node.node)
        if node.find(nodes.Assign) is not None:
            return False
        local = {name.name for name in node.find_all(nodes.Name) if name.ctx != "load"} - self._assigned
        return _names(node) <= _OF_THE_CAMPAIGN | self._constant_names | local

    def _program(self, kind: type[Computed] | type[Constant]) -> Program | None:
        if not self._needed[kind]:
            return None
        body = [each for node in self._bodies[kind] for each in _as_list(self._metering.visit(node))]
        tree = nodes.Template(body, lineno=1).set_environment(self._environment)
        return Program(self._environment.from_string(tree), self._counts[kind])  # type: ignore[arg-type]

    def _joined(self) -> Iterator[Slot]:
        static: list[str] = []
        for slot in self._slots:
            if isinstance(slot, str):
                static.append(slot)
                continue
            if static:
                yield "".join(static)
                static.clear()
            yield slot
        if static:
            yield "".join(static)


def _as_list(visited: Any) -> list[nodes.Node]:
    return visited if isinstance(visited, list) else [visited]


def _copied(node: nodes.Node) -> nodes.Node:
    """A tree of its own: the metering changes the one that is compiled."""
    values = [
        _copied(value)
        if isinstance(value, nodes.Node)
        else [_copied(each) if isinstance(each, nodes.Node) else each for each in value]
        if isinstance(value, list)
        else value
        for value in (getattr(node, field) for field in node.fields)
    ]
    return type(node)(*values, **{name: getattr(node, name, None) for name in node.attributes})


def _names(node: nodes.Node) -> set[str]:
    """The names that are read inside."""
    own = {node.name} if isinstance(node, nodes.Name) and node.ctx == "load" else set()
    return own | {name.name for name in node.find_all(nodes.Name) if name.ctx == "load"}


def _targets(node: nodes.Assign) -> set[str]:
    own = {node.target.name} if isinstance(node.target, nodes.Name) else set()
    return own | {name.name for name in node.target.find_all(nodes.Name)}


def _assigned_names(tree: nodes.Template) -> tuple[frozenset[str], frozenset[str]]:
    """Every name that a ``set`` gives a value, and those of them that depend on the campaign alone."""
    assignments = list(tree.find_all(nodes.Assign))
    assigned = frozenset(name for each in assignments for name in _targets(each))
    at_the_top = [each for each in tree.body if isinstance(each, nodes.Assign)]
    known = {id(each) for each in at_the_top}
    inner = {name for each in assignments if id(each) not in known for name in _targets(each)}
    constant = set(assigned - inner)
    shrinking = True
    while shrinking:  # a name counts as constant as long as nothing shows that it is not
        local_free = _OF_THE_CAMPAIGN | constant
        lost = {
            name
            for each in at_the_top
            # `{% set x, y = … %}` is computed as one: where x varies, y is not known beforehand either.
            if not (_names(each.node) <= local_free and _targets(each) <= constant)
            for name in _targets(each)
        } & constant
        constant -= lost
        shrinking = bool(lost)
    return assigned, frozenset(constant)


def _direct(expression: nodes.Expr, environment: Sandbox) -> Direct | None:
    """The lookup that gives the same text as this expression, or None where only Jinja can tell."""
    default: Any = _NO_DEFAULT
    for_false = False
    target: nodes.Node = expression
    if isinstance(expression, nodes.Filter) and expression.name in ("default", "d") and expression.node is not None:
        given = [each.value for each in expression.args if isinstance(each, nodes.Const)]
        if expression.kwargs or expression.dyn_args or expression.dyn_kwargs or len(given) != len(expression.args):
            return None
        if len(given) > 2:
            return None
        default, for_false = (given[0] if given else ""), bool(given[1] if len(given) > 1 else False)
        if not isinstance(default, str | int | float):
            return None
        target = expression.node
    found = _steps(target)
    if found is None:
        return None
    root, steps = found
    if steps if root in _DIRECT_NAMES else (root != "attributes" or not steps):
        return None
    escaped = bool(environment.autoescape)
    text = None if default is _NO_DEFAULT else str(escape(default)) if escaped else str(default)
    return Direct(root, steps, text, for_false, escaped)


def _steps(node: nodes.Node) -> tuple[str, tuple[tuple[bool, str | int], ...]] | None:
    match node:
        case nodes.Name(ctx="load"):
            return node.name, ()
        case nodes.Getattr():
            base = _steps(node.node)
            return None if base is None else (base[0], (*base[1], (False, node.attr)))
        case nodes.Getitem(arg=nodes.Const(value=str() | int() as key)) if not isinstance(key, bool):
            base = _steps(node.node)
            return None if base is None else (base[0], (*base[1], (True, key)))
    return None


def walk(environment: Sandbox, attributes: Any, steps: Sequence[tuple[bool, str | int]]) -> Any:
    """What stands below the attributes, or an undefined value; the same as Jinja finds in the sandbox.

    Raises:
        UndefinedError: something on the way there is missing.
    """
    value = attributes
    for by_item, step in steps:
        value = environment.getitem(value, step) if by_item else environment.getattr(value, str(step))
    return value
