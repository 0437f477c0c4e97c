"""What a template may do: an allow-list of filters, methods and functions, each with its bounds.

Invariant: nothing in a template depends on chance or the clock, reaches outside, or grows without bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from itertools import islice
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.filters import FILTERS, do_join, do_replace
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_eval_context
from jinja2.visitor import NodeTransformer

MAXIMUM_LOOP_DEPTH = 2
MAXIMUM_LOOP_ITEMS = 1_000
MAXIMUM_VALUE_CHARACTERS = 100_000
MAXIMUM_NUMBER = 10**30
MAXIMUM_ROUND_DIGITS = 20

ALLOWED_FILTERS = frozenset(
    {
        *("abs", "capitalize", "count", "d", "default", "e", "escape", "first", "float", "int", "join", "last"),
        *("length", "lower", "max", "min", "replace", "reverse", "round", "sort", "string", "striptags", "sum"),
        *("title", "trim", "truncate", "unique", "upper", "urlencode", "wordcount"),
    }
)
ALLOWED_METHODS = frozenset(
    {"capitalize", "endswith", "lower", "lstrip", "rstrip", "split", "startswith", "strip", "title", "upper", "cycle"}
)
ALLOWED_FUNCTIONS = frozenset({"range"})
_BOUNDED = "_bounded"


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's immutable sandbox, less everything that the allow-lists leave out."""

    intercepted_binops = frozenset({"*", "%"})

    def __init__(self, autoescape: bool) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=autoescape, keep_trailing_newline=True, cache_size=0)
        self.globals = {"range": RANGE}
        self.filters = {name: _bounding(FILTERS[name]) for name in ALLOWED_FILTERS}
        self.filters |= {"join": _join, "replace": _replace, "round": _round, _BOUNDED: _bounded}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A dictionary's key before its methods: a lead may have an attribute called ``items``; null is missing."""
        if type(obj) is dict:
            value = obj.get(attribute)
            return self.undefined(obj=obj, name=attribute) if value is None else value
        return self._no_bare_method(super().getattr(obj, attribute), obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As `getattr`, for ``attributes['key']`` and list positions."""
        if type(obj) is dict:
            value = obj.get(argument) if isinstance(argument, str) else None
            return self.undefined(obj=obj, name=argument) if value is None else value
        return self._no_bare_method(super().getitem(obj, argument), obj, argument)

    def _no_bare_method(self, value: Any, obj: Any, name: str) -> Any:
        if not callable(value):
            return value
        return _Method(value) if name in ALLOWED_METHODS else self.undefined(obj=obj, name=name)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """``*`` and ``%`` for numbers only: on text they repeat and format, to any length."""
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise TypeError(f"{operator} is for numbers only")
        if max(abs(left), abs(right)) > MAXIMUM_NUMBER:
            raise OverflowError("a number grew too large")
        return super().call_binop(context, operator, left, right)


class _Method:
    """A method that can be called but not written out: its own text would name a memory address."""

    __slots__ = ("_bound",)

    def __init__(self, bound: Callable[..., Any]) -> None:
        self._bound = bound

    def __call__(self, *arguments: Any) -> Any:
        return _bounded(self._bound(*arguments))

    def __str__(self) -> str:
        raise TypeError(f"a method needs its brackets: {self._bound.__name__}()")


def _bounded_range(*bounds: int) -> range:
    numbers = range(*bounds)
    # Compared, not measured: len() of an enormous range overflows.
    if numbers[MAXIMUM_LOOP_ITEMS:]:
        raise OverflowError(f"range has more than {MAXIMUM_LOOP_ITEMS:,} items")
    return numbers


RANGE = _Method(_bounded_range)


def _bounded(value: Any) -> Any:
    """The value itself, unless it has grown too large to be worked on further."""
    if isinstance(value, str):
        if len(value) > MAXIMUM_VALUE_CHARACTERS:
            raise OverflowError(f"a value is longer than {MAXIMUM_VALUE_CHARACTERS:,} characters")
    elif isinstance(value, list | tuple | dict) and len(value) > MAXIMUM_LOOP_ITEMS:
        raise OverflowError(f"a list has more than {MAXIMUM_LOOP_ITEMS:,} items")
    elif isinstance(value, Iterator):  # its text would name a memory address, and it can be read only once
        return _bounded(list(islice(value, MAXIMUM_LOOP_ITEMS + 1)))
    return value


def _bounding(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # keeps Jinja's marks on the function, such as pass_eval_context
    def bounded(*arguments: Any, **options: Any) -> Any:
        return _bounded(function(*arguments, **options))

    return bounded


@pass_eval_context
def _join(eval_ctx: nodes.EvalContext, value: Any, d: str = "", attribute: str | int | None = None) -> Any:
    items = list(_bounded(value) if isinstance(value, str | list | tuple | dict) else value)
    if len(items) * len(str(d)) > MAXIMUM_VALUE_CHARACTERS:
        raise OverflowError(f"joined text is longer than {MAXIMUM_VALUE_CHARACTERS:,} characters")
    return _bounded(do_join(eval_ctx, items, d, attribute))


@pass_eval_context
def _replace(eval_ctx: nodes.EvalContext, s: Any, old: str, new: str, count: int | None = None) -> Any:
    text = str(s)
    if len(text) + (text.count(str(old)) + 1) * len(str(new)) > MAXIMUM_VALUE_CHARACTERS:
        raise OverflowError(f"replaced text is longer than {MAXIMUM_VALUE_CHARACTERS:,} characters")
    return do_replace(eval_ctx, s, old, new, count)


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    if abs(precision) > MAXIMUM_ROUND_DIGITS:  # rounding up or down raises 10 to this power
        raise OverflowError(f"round takes at most {MAXIMUM_ROUND_DIGITS} digits")
    return FILTERS["round"](value, precision, method)


class Bounding(NodeTransformer):
    """Puts a bound on every value that a template gives a name to or loops over.

    Without it forty lines of ``{% set a = a ~ a %}`` ask for a terabyte.
    """

    def __init__(self, environment: Sandbox) -> None:
        self._environment = environment

    def _bound(self, value: nodes.Node) -> nodes.Filter:
        return nodes.Filter(value, _BOUNDED, [], [], None, None, lineno=value.lineno, environment=self._environment)

    def visit_Assign(self, node: nodes.Assign) -> nodes.Assign:  # noqa: N802, D102 - Jinja's visitor names
        node.node = self._bound(node.node)
        return node

    def visit_With(self, node: nodes.With) -> nodes.With:  # noqa: N802, D102
        self.generic_visit(node)
        node.values = [self._bound(value) for value in node.values]
        return node

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802, D102
        self.generic_visit(node)
        node.iter = self._bound(node.iter)
        return node
