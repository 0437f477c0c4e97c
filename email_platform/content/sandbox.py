"""What a template may do: an allow-list of filters, tests, methods and functions, each paid for from a budget.

Invariant: nothing in a template depends on chance or the clock, reaches outside, or works without drawing from the
rendering's `Budget`, which stands in the context under a name that no template can use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from jinja2 import StrictUndefined
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import _PassArg, pass_context
from markupsafe import Markup, escape

from email_platform.content.budget import (
    MAXIMUM_LOOP_ITEMS,
    MAXIMUM_VALUE_CHARACTERS,
    Budget,
    BudgetError,
    size_of,
)
from email_platform.content.exact_number import ExactNumber

MAXIMUM_LOOP_DEPTH = 2
MAXIMUM_NUMBER = 10**30
MAXIMUM_ROUND_DIGITS = 20
BUDGET = "_budget"
"""Name of the budget in the context; names with an underscore in front are no variables of templates."""

ALLOWED_FILTERS = frozenset(
    {
        *("abs", "capitalize", "count", "d", "default", "e", "escape", "first", "float", "int", "join", "last"),
        *("length", "lower", "max", "min", "replace", "reverse", "round", "sort", "string", "striptags", "sum"),
        *("title", "trim", "truncate", "unique", "upper", "urlencode", "wordcount"),
    }
)
ALLOWED_TESTS = frozenset(
    {
        *("defined", "undefined", "none", "true", "false", "boolean", "string", "number", "integer", "float"),
        *("mapping", "sequence", "iterable", "even", "odd", "divisibleby", "lower", "upper", "in", "sameas"),
        *("==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", "<", "lt", "lessthan", ">=", "ge", "<=", "le"),
    }
)
ALLOWED_METHODS = frozenset(
    {"capitalize", "endswith", "lower", "lstrip", "rstrip", "split", "startswith", "strip", "title", "upper", "cycle"}
)
ALLOWED_FUNCTIONS = frozenset({"range"})
_COMPARING_FILTERS = frozenset({"sort", "unique", "min", "max"})
_COMPARISONS_PER_ITEM = 20  # more than the logarithm of the longest list
_NUMBER_TESTS = frozenset({"even", "odd", "divisibleby"})  # on a text their % would format it, to any length
_NUMBERS = (int, float, ExactNumber)


class MissingValue(StrictUndefined):
    """A missing value; its error names it only where the template itself does."""

    @property
    def _undefined_message(self) -> str:
        return f"{self._undefined_name or 'a value'} is missing"


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's immutable sandbox, less everything that the allow-lists leave out.

    Attributes:
        written_names: names and keys that stand in the template, and so may stand in a message about it.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%"})

    def __init__(self, autoescape: bool) -> None:
        super().__init__(
            undefined=MissingValue, autoescape=autoescape, keep_trailing_newline=True, cache_size=0, optimized=False
        )
        self.written_names: frozenset[str] = frozenset()
        self.globals = {"range": RANGE}
        self.tests = {name: _metered_test(name) for name in ALLOWED_TESTS}
        self.filters = {name: _metered_filter(name) for name in ALLOWED_FILTERS}
        self.filters |= {"join": _join, "replace": _replace, "round": _round, "sum": _sum, "striptags": _striptags}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A dictionary's key before its methods: a lead may have an attribute called ``items``; null is missing."""
        if type(obj) is dict:
            value = obj.get(attribute)
            return self._missing(attribute) if value is None else value
        if isinstance(obj, ExactNumber):
            return self._missing(attribute)
        return self._no_bare_method(super().getattr(obj, attribute), attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As `getattr`, for ``attributes['key']`` and list positions."""
        if type(obj) is dict:
            value = obj.get(argument) if isinstance(argument, str) else None
            return self._missing(argument) if value is None else value
        if isinstance(obj, ExactNumber):
            return self._missing(argument)
        return self._no_bare_method(super().getitem(obj, argument), argument)

    def _no_bare_method(self, value: Any, name: Any) -> Any:
        if isinstance(value, Undefined):
            return self._missing(name)
        if not callable(value):
            return value
        return Method(value) if name in ALLOWED_METHODS else self._missing(name)

    def _missing(self, name: Any) -> Undefined:
        return self.undefined(name=name if isinstance(name, str) and name in self.written_names else None)

    def call(__self, __context: Context, __obj: Any, *arguments: Any, **options: Any) -> Any:  # noqa: N805
        """Call `range` or a method on the allow-list; nothing else can be called."""
        if isinstance(__obj, Undefined):
            return __obj()
        if not isinstance(__obj, Method):
            raise SecurityError("only range() and the methods of texts can be called")
        for name in ("_loop_vars", "_block_vars"):  # Jinja's own, for functions that get the context
            options.pop(name, None)
        return __obj.paid_from(budget_of(__context), arguments, options)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """``*`` and ``%`` for numbers only: on text they repeat and format, to any length."""
        budget = budget_of(context)
        budget.touch(left)
        budget.touch(right)
        if operator in ("*", "%"):
            if not (isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS)):
                raise TypeError(f"{operator} is for numbers only")
            numbers: tuple[Any, Any] = (left, right)
            if any(abs(number) > MAXIMUM_NUMBER for number in numbers):
                raise BudgetError("a number grew too large")
        return bounded(super().call_binop(context, operator, left, right))


def budget_of(context: Context) -> Budget:
    """The budget of the rendering that this context belongs to."""
    budget: Budget = context.parent[BUDGET]
    return budget


class Method:
    """A method that can be called but not written out: its own text would name a memory address."""

    __slots__ = ("_bound",)

    def __init__(self, bound: Callable[..., Any]) -> None:
        self._bound = bound

    def paid_from(self, budget: Budget, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Call it; the text it belongs to, the arguments and the result are paid for."""
        budget.touch([getattr(self._bound, "__self__", None), *arguments, *options.values()])
        result = bounded(self._bound(*arguments, **options))
        budget.touch(result)
        return result

    def __str__(self) -> str:
        raise TypeError(f"a method needs its brackets: {self._bound.__name__}()")


def _bounded_range(*bounds: int) -> range:
    numbers = range(*bounds)
    # Compared, not measured: len() of an enormous range overflows.
    if numbers[MAXIMUM_LOOP_ITEMS:]:
        raise BudgetError(f"range has more than {MAXIMUM_LOOP_ITEMS:,} items")
    return numbers


RANGE = Method(_bounded_range)


def bounded(value: Any) -> Any:
    """The value itself, unless it has grown too large to be worked on further."""
    if isinstance(value, str):
        if len(value) > MAXIMUM_VALUE_CHARACTERS:
            raise BudgetError(f"a value is longer than {MAXIMUM_VALUE_CHARACTERS:,} characters")
    elif isinstance(value, list | tuple | dict):
        if len(value) > MAXIMUM_LOOP_ITEMS:
            raise BudgetError(f"a list has more than {MAXIMUM_LOOP_ITEMS:,} items")
        size_of(value)
    elif isinstance(value, Iterator):  # its text would name a memory address, and it can be read only once
        return bounded(list(islice(value, MAXIMUM_LOOP_ITEMS + 1)))
    return value


def _metered_filter(name: str) -> Callable[..., Any]:
    function: Any = FILTERS[name]
    passed = _PassArg.from_obj(function)
    times = _COMPARISONS_PER_ITEM if name in _COMPARING_FILTERS else 1

    @pass_context
    def metered(context: Context, value: Any, *arguments: Any, **options: Any) -> Any:
        budget = budget_of(context)
        budget.touch(value, times)
        for argument in (*arguments, *options.values()):
            budget.touch(argument)
        if passed is _PassArg.eval_context:
            return bounded(function(context.eval_ctx, value, *arguments, **options))
        if passed is _PassArg.environment:
            return bounded(function(context.environment, value, *arguments, **options))
        return bounded(function(value, *arguments, **options))

    return metered


def _metered_test(name: str) -> Callable[..., bool]:
    function: Any = TESTS[name]

    @pass_context
    def metered(context: Context, value: Any, *arguments: Any) -> bool:
        if name in ("defined", "undefined"):
            return bool(function(value))
        budget = budget_of(context)
        for each in (value, *arguments):
            budget.touch(each)
            if name in _NUMBER_TESTS and not isinstance(each, _NUMBERS):
                raise TypeError(f"the test {name} is for numbers only")
        if name == "float" and isinstance(value, ExactNumber):
            return True
        return bool(function(value, *arguments))

    return metered


@pass_context
def _join(context: Context, value: Any, d: str = "", attribute: str | int | None = None) -> Any:
    budget = budget_of(context)
    items = bounded(value if isinstance(value, str | list | tuple | dict) else iter(value))
    items = list(items)
    if len(items) * len(str(d)) > MAXIMUM_VALUE_CHARACTERS:
        raise BudgetError(f"joined text is longer than {MAXIMUM_VALUE_CHARACTERS:,} characters")
    budget.touch(items)
    budget.draw(len(items), len(items) * len(str(d)))
    return bounded(FILTERS["join"](context.eval_ctx, items, d, attribute))


@pass_context
def _replace(context: Context, s: Any, old: str, new: str, count: int | None = None) -> Any:
    budget = budget_of(context)
    for each in (s, old, new):
        budget.touch(each)
    text = str(s)
    if len(text) + (text.count(str(old)) + 1) * len(str(escape(new))) > MAXIMUM_VALUE_CHARACTERS:
        raise BudgetError(f"replaced text is longer than {MAXIMUM_VALUE_CHARACTERS:,} characters")
    return bounded(FILTERS["replace"](context.eval_ctx, s, old, new, count))


@pass_context
def _round(context: Context, value: Any, precision: int = 0, method: str = "common") -> Any:
    budget_of(context).touch(value)
    if abs(precision) > MAXIMUM_ROUND_DIGITS:  # rounding up or down raises 10 to this power
        raise BudgetError(f"round takes at most {MAXIMUM_ROUND_DIGITS} digits")
    return (
        value.rounded(precision, method)
        if isinstance(value, ExactNumber)
        else FILTERS["round"](value, precision, method)
    )


@pass_context
def _sum(context: Context, iterable: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    """Numbers only: with lists it would put them together, again and again."""
    items = bounded(iterable if isinstance(iterable, list | tuple | dict) else iter(iterable))
    budget_of(context).touch(items)
    if not isinstance(start, _NUMBERS):
        raise TypeError("sum is for numbers only")
    if attribute is None and not all(isinstance(each, _NUMBERS) for each in items):
        raise TypeError("sum is for numbers only")
    total = FILTERS["sum"](context.environment, items, attribute, start)
    if not isinstance(total, _NUMBERS):
        raise TypeError("sum is for numbers only")
    return total


@pass_context
def _striptags(context: Context, value: Any) -> str:
    """Each tag that is taken out copies the rest of the text."""
    text = str(value.__html__()) if hasattr(value, "__html__") else str(bounded(value))
    budget_of(context).draw(1, len(text) * (1 + text.count("<") // 8))
    return str(bounded(Markup(text).striptags()))  # noqa: S704 - tags are taken out, nothing is marked as safe
