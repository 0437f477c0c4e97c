"""Numbers of a lead's attributes, which read in a message as PostgreSQL keeps them.

Invariant: a number that no template changes is printed with the digits it is stored with: ``20.00`` stays ``20.00``.
Nothing passes through binary floating point. PostgreSQL keeps numbers in jsonb as ``numeric``, trailing fractional
zeros included (PostgreSQL manual, 8.14 "JSON Types").
"""

from __future__ import annotations

import json
import re
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal
from typing import Any

import orjson

MAXIMUM_DIGITS = 1_000
# A whole number of 19 digits or more, or any fraction or exponent. orjson makes binary floating point of them.
_NEEDS_EXACT_READING = re.compile(r"[0-9]{19}|[0-9][.eE]")
# Amounts of money are rounded half up, as invoices do it. 100 digits: far more than any sum of attributes needs.
_CONTEXT = Context(prec=100, rounding=ROUND_HALF_UP, Emax=MAXIMUM_DIGITS, Emin=-MAXIMUM_DIGITS)
_ROUNDING = {"common": ROUND_HALF_UP, "ceil": ROUND_CEILING, "floor": ROUND_FLOOR}


class ExactNumber(Decimal):
    """A decimal number that prints as it is written and reckons with ints and floats.

    A float beside it counts as the shortest decimal that stands for it (``0.1`` is one tenth). Results are exact
    numbers again, to 100 digits; ``%`` and ``//`` go by the floor, as for Python's other numbers.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return format(Decimal(self), "f")

    __repr__ = __str__

    def __format__(self, specification: str, *_: Any) -> str:
        return format(Decimal(self), specification or "f")

    def __hash__(self) -> int:
        """The same as that of the int or float which is equal to it, up to 2**53: beyond, floats skip whole numbers."""
        return hash(int(self)) if self == self.to_integral_value() else hash(float(self))

    def __eq__(self, other: object) -> bool:
        number = _decimal(other)
        return NotImplemented if number is None else Decimal.__eq__(self, number)

    def __lt__(self, other: Any) -> bool:
        number = _decimal(other)
        return NotImplemented if number is None else Decimal.__lt__(self, number)

    def __le__(self, other: Any) -> bool:
        number = _decimal(other)
        return NotImplemented if number is None else Decimal.__le__(self, number)

    def __gt__(self, other: Any) -> bool:
        number = _decimal(other)
        return NotImplemented if number is None else Decimal.__gt__(self, number)

    def __ge__(self, other: Any) -> bool:
        number = _decimal(other)
        return NotImplemented if number is None else Decimal.__ge__(self, number)

    def __neg__(self) -> ExactNumber:
        return ExactNumber(_CONTEXT.minus(self))

    def __pos__(self) -> ExactNumber:
        return self

    def __abs__(self) -> ExactNumber:
        return ExactNumber(self.copy_abs())

    def __add__(self, other: Any) -> Any:
        return _reckoned(_CONTEXT.add, self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return _reckoned(_CONTEXT.subtract, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _reckoned(_CONTEXT.subtract, other, self)

    def __mul__(self, other: Any) -> Any:
        return _reckoned(_CONTEXT.multiply, self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return _reckoned(_CONTEXT.divide, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _reckoned(_CONTEXT.divide, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _reckoned(_floor, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _reckoned(_floor, other, self)

    def __mod__(self, other: Any) -> Any:
        return _reckoned(_modulo, self, other)

    def __rmod__(self, other: Any) -> Any:
        return _reckoned(_modulo, other, self)

    def rounded(self, digits: int, method: str) -> ExactNumber:
        """With exactly so many digits after the point: ``20.5`` to two digits is ``20.50``.

        Raises:
            ValueError: an unknown method.
        """
        if method not in _ROUNDING:
            raise ValueError("round goes by common, ceil or floor")
        step = Decimal(1).scaleb(-digits)
        return ExactNumber(self.quantize(step, rounding=_ROUNDING[method], context=_CONTEXT))


def attributes_of(document: str) -> Any:
    """The lead's attributes from their JSON text, every number with all its digits.

    Raises:
        ValueError: no JSON, or a number of more than `MAXIMUM_DIGITS` digits.
    """
    if _NEEDS_EXACT_READING.search(document):
        return json.loads(document, parse_float=_exact, parse_int=_whole, parse_constant=_refused)
    return orjson.loads(document)


def _exact(text: str) -> ExactNumber:
    number = ExactNumber(text)
    exponent = number.as_tuple().exponent
    if len(text) > MAXIMUM_DIGITS or not isinstance(exponent, int) or abs(exponent) > MAXIMUM_DIGITS:
        raise ValueError(f"a number has more than {MAXIMUM_DIGITS:,} digits")
    return number


def _whole(text: str) -> int:
    if len(text) > MAXIMUM_DIGITS:
        raise ValueError(f"a number has more than {MAXIMUM_DIGITS:,} digits")
    return int(text)


def _refused(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, Decimal):
        return Decimal(value)
    if isinstance(value, int):
        return Decimal(value)
    return Decimal(repr(value)) if isinstance(value, float) else None


def _reckoned(operation: Any, left: Any, right: Any) -> Any:
    first, second = _decimal(left), _decimal(right)
    if first is None or second is None:
        return NotImplemented
    return ExactNumber(operation(first, second))


def _floor(left: Decimal, right: Decimal) -> Decimal:
    return _CONTEXT.divide(_CONTEXT.subtract(left, _modulo(left, right)), right).to_integral_value(context=_CONTEXT)


def _modulo(left: Decimal, right: Decimal) -> Decimal:
    rest = _CONTEXT.remainder(left, right)
    return _CONTEXT.add(rest, right) if rest and (rest < 0) != (right < 0) else rest
