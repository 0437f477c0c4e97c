"""Which variables a template uses and which of them a recipient must have; refuses what is not allowed.

Invariant: a variable that is not reported as required can be missing without making a recipient impossible to render.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from jinja2 import nodes

from email_platform.content.sandbox import (
    ALLOWED_FILTERS,
    ALLOWED_FUNCTIONS,
    ALLOWED_METHODS,
    ALLOWED_TESTS,
    MAXIMUM_LOOP_DEPTH,
)
from email_platform.errors import InvalidTemplateError

LEAD_FIELDS = ("first_name", "last_name", "email", "country", "city", "plan", "language", "age")
CAMPAIGN_FIELDS = (
    "campaign.id",
    "campaign.from_name",
    "campaign.from_address",
    "campaign.date",
    "campaign.year",
)
CONTENT_FIELDS = frozenset({*LEAD_FIELDS, *CAMPAIGN_FIELDS, "unsubscribe_url"})
_FIELD_ROOTS = frozenset({name.partition(".")[0] for name in CONTENT_FIELDS} | {"attributes"})
_FORBIDDEN_TAGS: Mapping[type[nodes.Node], str] = {
    nodes.Extends: "extends",
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "from … import",
    nodes.Block: "block",
    nodes.Macro: "macro",
    nodes.CallBlock: "call",
    nodes.AssignBlock: "set … endset",
    nodes.ScopedEvalContextModifier: "autoescape",
    nodes.Pow: "**",
    nodes.NSRef: "namespace",
}

Path = tuple[str, ...]


class Reader:
    """Walks one template's tree: refuses what is not allowed and notes which variables are used and required."""

    def __init__(self, part: str, tree: nodes.Template) -> None:
        self._part = part
        self.used: set[str] = set()
        self.lines: dict[str, int] = {}
        self.required: set[str] = set()
        self.local_names: set[str] = set()
        for name in tree.find_all(nodes.Name):
            if name.ctx != "load":
                if name.name in _FIELD_ROOTS:
                    raise self._error(name, f"{name.name!r} is a variable of the lead; set another name")
                self.local_names.add(name.name)
        if tree.find(nodes.For) is not None:
            self.local_names.add("loop")
        self._visit_all(tree.body, frozenset(), 0)

    def _error(self, node: nodes.Node, problem: str) -> InvalidTemplateError:
        return InvalidTemplateError(f"{self._part} template, line {node.lineno}: {problem}")

    def _visit_all(self, several: Sequence[nodes.Node], guarded: frozenset[Path], depth: int) -> None:
        for node in several:
            self._visit(node, guarded, depth)

    def _visit(self, node: nodes.Node, guarded: frozenset[Path], depth: int) -> None:
        """Visit a node, knowing which paths are certainly defined there and how many loops are around it."""
        if type(node) in _FORBIDDEN_TAGS:
            raise self._error(node, f"{_FORBIDDEN_TAGS[type(node)]} is not allowed")
        match node:
            case nodes.Name() | nodes.Getattr() | nodes.Getitem() if (path := _path_of(node)) is not None:
                self._note(node, path, guarded)
            case nodes.Filter():
                self._visit_filter(node, guarded, depth)
            case nodes.Test() if node.name in ("defined", "undefined") and (path := _path_of(node.node)) is not None:
                self._note_optional(node, path, guarded)
            case nodes.Test() if node.name not in ALLOWED_TESTS:
                raise self._error(
                    node, f"the test {node.name!r} is not allowed; allowed are {', '.join(sorted(ALLOWED_TESTS))}"
                )
            case nodes.Call():
                self._visit_call(node, guarded, depth)
            case nodes.If():
                self._visit_if(node, guarded, depth)
            case nodes.CondExpr():
                self._visit(node.test, guarded, depth)
                self._visit(node.expr1, guarded | _defined_where(node.test, True), depth)
                if node.expr2 is not None:
                    self._visit(node.expr2, guarded | _defined_where(node.test, False), depth)
            case nodes.And() | nodes.Or():
                self._visit(node.left, guarded, depth)
                known = _defined_where(node.left, isinstance(node, nodes.And))
                self._visit(node.right, guarded | known, depth)
            case nodes.For():
                if node.recursive:
                    raise self._error(node, "a recursive loop is not allowed")
                if depth >= MAXIMUM_LOOP_DEPTH:
                    raise self._error(node, f"loops may be nested {MAXIMUM_LOOP_DEPTH} deep")
                self._visit_all(list(node.iter_child_nodes(exclude=("body",))), guarded, depth)
                inside = guarded | (_defined_where(node.test, True) if node.test is not None else frozenset())
                self._visit_all(node.body, inside, depth + 1)
            case _:
                self._visit_all(list(node.iter_child_nodes()), guarded, depth)

    def _visit_filter(self, node: nodes.Filter, guarded: frozenset[Path], depth: int) -> None:
        if node.name not in ALLOWED_FILTERS:
            near = get_close_matches(node.name, ALLOWED_FILTERS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(sorted(ALLOWED_FILTERS))}"
            raise self._error(node, f"the filter {node.name!r} is not allowed; {hint}")
        path = _path_of(node.node) if node.node is not None else None
        if node.name in ("default", "d") and path is not None:
            self._note_optional(node, path, guarded)
            self._visit_all(list(node.iter_child_nodes(exclude=("node",))), guarded, depth)
        else:
            self._visit_all(list(node.iter_child_nodes()), guarded, depth)

    def _visit_call(self, node: nodes.Call, guarded: frozenset[Path], depth: int) -> None:
        called = node.node
        if isinstance(called, nodes.Getattr) and called.attr in ALLOWED_METHODS:
            self._visit(called.node, guarded, depth)
        elif not (isinstance(called, nodes.Name) and called.name in ALLOWED_FUNCTIONS):
            name = ".".join(_path_of(called) or ("this",))
            raise self._error(
                node,
                f"calling {name} is not allowed; allowed are range() and the text methods "
                f"{', '.join(sorted(ALLOWED_METHODS - {'cycle'}))}",
            )
        self._visit_all(list(node.iter_child_nodes(exclude=("node",))), guarded, depth)

    def _visit_if(self, node: nodes.If, guarded: frozenset[Path], depth: int) -> None:
        for branch in (node, *node.elif_):
            self._visit(branch.test, guarded, depth)
            self._visit_all(branch.body, guarded | _defined_where(branch.test, True), depth)
            guarded |= _defined_where(branch.test, False)
        self._visit_all(node.else_, guarded, depth)

    def _note(self, node: nodes.Node, path: Path, guarded: frozenset[Path]) -> None:
        name = self._variable(node, path)
        if name is None:
            return
        self.used.add(name)
        self.lines.setdefault(name, node.lineno)
        variable = tuple(name.split(".")) if name.startswith("attributes.") else (name,)
        # A guard on a longer path answers for its beginning as well.
        if not any(each[: len(variable)] == variable for each in guarded):
            self.required.add(name)

    def _note_optional(self, node: nodes.Node, path: Path, guarded: frozenset[Path]) -> None:
        name = self._variable(node, path)
        if name is None:
            return
        self.used.add(name)
        self.lines.setdefault(name, node.lineno)
        if len(path) > 2:  # attributes.a.b is defined: asking for b needs an a
            self._note(node, path[:-1], guarded)

    def _variable(self, node: nodes.Node, path: Path) -> str | None:
        """The dotted variable that a path reads, or None for a local name."""
        root = path[0]
        if root in self.local_names or root in ALLOWED_FUNCTIONS:
            return None
        if root == "attributes":
            if len(path) == 1:
                raise self._error(node, "attributes can only be used as attributes.<key>, with a constant key")
            if any("." in step for step in path):
                raise self._error(node, "a key of attributes must not hold a dot")
            return ".".join(path)
        return ".".join(path[:2]) if root == "campaign" else root


def written_names(tree: nodes.Template) -> frozenset[str]:
    """The names and constant keys that stand in a template: they may stand in a message about it."""
    names = {each.name for each in tree.find_all(nodes.Name)} | {each.attr for each in tree.find_all(nodes.Getattr)}
    keys = (each.arg for each in tree.find_all(nodes.Getitem) if isinstance(each.arg, nodes.Const))
    return frozenset(names | {key.value for key in keys if isinstance(key.value, str)})


def _path_of(node: nodes.Node) -> Path | None:
    """``attributes.a['b'][0]`` as ("attributes", "a", "b", "0"), or None where it is no constant path."""
    match node:
        case nodes.Name(ctx="load"):
            return (node.name,)
        case nodes.Getattr():
            base = _path_of(node.node)
            return None if base is None else (*base, node.attr)
        case nodes.Getitem() if isinstance(node.arg, nodes.Const):
            base = _path_of(node.node)
            return None if base is None else (*base, str(node.arg.value))
    return None


def _defined_where(test: nodes.Node, outcome: bool) -> frozenset[Path]:
    """Paths that are certainly defined where the test came out so."""
    match test:
        case nodes.Test(name="defined" | "undefined" as name):
            path = _path_of(test.node)
            return frozenset({path}) if path is not None and (name == "defined") == outcome else frozenset()
        case nodes.Not():
            return _defined_where(test.node, not outcome)
        case nodes.And() | nodes.Or():
            left, right = _defined_where(test.left, outcome), _defined_where(test.right, outcome)
            return left | right if isinstance(test, nodes.And) == outcome else left & right
    return frozenset()
