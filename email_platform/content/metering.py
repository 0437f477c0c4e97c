"""Rewrites a template's tree so that everything it does is paid for from the rendering's budget.

Invariant: every loop iteration, concatenation, comparison, list, slice and output that is left in the tree draws from
the budget before or as soon as it is done. Filters, tests, methods and operators are metered by `Sandbox` itself.
"""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.runtime import Context, Undefined, markup_join, str_join
from jinja2.utils import pass_context
from jinja2.visitor import NodeTransformer

from email_platform.content.budget import MAXIMUM_LOOP_ITEMS, MAXIMUM_VALUE_CHARACTERS, BudgetError
from email_platform.content.sandbox import Sandbox, bounded, budget_of

_NODES_PER_STEP = 4


class Metering(NodeTransformer):
    """Puts the metering in; the environment gets the filters that it needs."""

    def __init__(self, environment: Sandbox) -> None:
        self._environment = environment
        environment.filters |= {
            "_kept": _kept,
            "_looped": _looped,
            "_concatenated": _concatenated,
            "_compared": _compared,
            "_written": _written,
            "_spent": _spent,
        }

    def _filter(self, name: str, value: nodes.Node, *arguments: nodes.Node) -> nodes.Filter:
        return nodes.Filter(
            value, name, list(arguments), [], None, None, lineno=value.lineno, environment=self._environment
        )

    def _number(self, number: int, at: nodes.Node) -> nodes.Const:
        return nodes.Const(number, lineno=at.lineno, environment=self._environment)

    def spend(self, name: str, number: int, at: nodes.Node) -> nodes.ExprStmt:
        """A statement that gives a number to a filter and prints nothing."""
        return nodes.ExprStmt(
            self._filter(name, self._number(number, at)), lineno=at.lineno, environment=self._environment
        )

    def visit_Output(self, node: nodes.Output) -> list[nodes.Node]:  # noqa: N802, D102 - Jinja's visitor names
        self.generic_visit(node)
        static = sum(len(each.data) for each in node.nodes if isinstance(each, nodes.TemplateData))
        node.nodes = [
            each if isinstance(each, nodes.TemplateData) else self._filter("_written", each) for each in node.nodes
        ]
        return [self.spend("_spent", static, node), node] if static else [node]

    def visit_Assign(self, node: nodes.Assign) -> nodes.Assign:  # noqa: N802, D102
        node.node = self._filter("_kept", self.visit(node.node))
        return node

    def visit_With(self, node: nodes.With) -> nodes.With:  # noqa: N802, D102
        self.generic_visit(node)
        node.values = [self._filter("_kept", value) for value in node.values]
        return node

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802, D102
        size = sum(1 for _ in node.find_all(nodes.Node))  # an iteration costs what its body is long
        self.generic_visit(node)
        node.iter = self._filter("_looped", node.iter, self._number(1 + size // _NODES_PER_STEP, node))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802, D102
        self.generic_visit(node)
        return self._filter("_concatenated", node.nodes[0], *node.nodes[1:])

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802, D102
        self.generic_visit(node)
        node.expr = self._filter("_compared", node.expr)
        for operand in node.ops:
            operand.expr = self._filter("_compared", operand.expr)
        return node

    def _built(self, node: nodes.Node) -> nodes.Node:
        self.generic_visit(node)
        return self._filter("_kept", node)

    visit_List = visit_Dict = _built  # noqa: N815

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802, D102
        return node if node.ctx != "load" else self._built(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802, D102
        self.generic_visit(node)
        return self._filter("_kept", node) if isinstance(node.arg, nodes.Slice) else node


@pass_context
def _kept(context: Context, value: Any) -> Any:
    value = bounded(value)
    budget_of(context).touch(value)
    return value


@pass_context
def _looped(context: Context, value: Any, steps: int) -> Any:
    if isinstance(value, Undefined):
        return value  # Jinja raises its error
    items = bounded(value)
    if not hasattr(items, "__len__"):
        items = list(items)
    count = len(items)
    if count > MAXIMUM_LOOP_ITEMS:
        raise BudgetError(f"a loop has more than {MAXIMUM_LOOP_ITEMS:,} items")
    budget_of(context).draw(count * steps, count)
    return items


@pass_context
def _concatenated(context: Context, *parts: Any) -> Any:
    budget = budget_of(context)
    for part in parts:
        budget.touch(part)
    if sum(len(part) for part in parts if isinstance(part, str)) > MAXIMUM_VALUE_CHARACTERS:
        raise BudgetError(f"a value is longer than {MAXIMUM_VALUE_CHARACTERS:,} characters")
    return bounded((markup_join if context.eval_ctx.autoescape else str_join)(parts))


@pass_context
def _compared(context: Context, value: Any) -> Any:
    budget_of(context).touch(value)
    return value


@pass_context
def _written(context: Context, value: Any) -> Any:
    budget = budget_of(context)
    if isinstance(value, str):
        budget.write(len(value))
    else:
        budget.touch(value)
        budget.write(0)
    return value


@pass_context
def _spent(context: Context, characters: int) -> None:
    budget_of(context).write(characters)
