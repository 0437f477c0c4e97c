"""How much work one recipient's message may cost: steps, characters worked on, characters written.

Invariant: work is drawn before it is done, and a value's size counts everything inside it, however often it is
named. A few hundred characters of template (nested lists doubled by ``set``, ``a ~ a ~ a``, loops in loops) can
therefore ask for no more memory or time than a long newsletter needs. Nothing here looks at a clock: the same row
comes out the same on every machine.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

MAXIMUM_LOOP_ITEMS = 1_000
MAXIMUM_VALUE_CHARACTERS = 100_000
MAXIMUM_VALUE_ITEMS = 10_000
MAXIMUM_VALUE_DEPTH = 50
MAXIMUM_STEPS = 1_000_000
MAXIMUM_WORKED_CHARACTERS = 20_000_000


class BudgetError(OverflowError):
    """A rendering asked for more than its budget; the message names the limit, never a value."""


class Budget:
    """What is left for one recipient's message.

    Attributes:
        steps: iterations, operations and items touched; each is well below a microsecond.
        characters: of texts read or made on the way.
        output_characters: still to be written in the present part.
    """

    __slots__ = ("_maximum_characters", "_maximum_output", "_maximum_steps", "characters", "output_characters", "steps")

    def __init__(self, steps: int = MAXIMUM_STEPS, characters: int = MAXIMUM_WORKED_CHARACTERS) -> None:
        self.steps = self._maximum_steps = steps
        self.characters = self._maximum_characters = characters
        self.begin_part(MAXIMUM_WORKED_CHARACTERS)

    def begin_part(self, maximum_output: int) -> None:
        """Start on the next template of the message."""
        self._maximum_output = self.output_characters = maximum_output

    def draw(self, steps: int, characters: int = 0) -> None:
        """Pay for work that is about to be done.

        Raises:
            BudgetError: there is not so much left.
        """
        if steps > self.steps:
            raise BudgetError(f"the template takes more than {self._maximum_steps:,} steps")
        if characters > self.characters:
            raise BudgetError(f"the template works on more than {self._maximum_characters:,} characters")
        self.steps -= steps
        self.characters -= characters

    def write(self, characters: int) -> None:
        """Pay for output.

        Raises:
            BudgetError: the part's output grows too long.
        """
        self.draw(1, characters)
        self.output_characters -= characters
        if self.output_characters < 0:
            raise BudgetError(f"the output is longer than {self._maximum_output:,} bytes")

    def touch(self, value: Any, times: int = 1) -> None:
        """Pay for reading a whole value so many times.

        Raises:
            BudgetError: the budget is used up, or the value is larger than any value may be.
        """
        kind = type(value)
        if kind is str:
            self.draw(times, times * len(value))
        elif kind is int and -(1 << 64) < value < 1 << 64:
            self.draw(times, times * 20)
        else:
            items, characters = size_of(value)
            self.draw(times * items, times * characters)


def size_of(value: Any) -> tuple[int, int]:
    """How many values there are inside (itself included) and how many characters they would print at most.

    A value that occurs twice counts twice: what prints, compares or hashes it would visit it twice. Stops as soon as
    a limit is passed, so it costs no more than the largest value allowed.

    Raises:
        BudgetError: it is larger or nested deeper than a value may be.
    """
    items = characters = 0
    waiting = [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        items += 1
        if isinstance(each, str):
            characters += len(each)
        elif isinstance(each, int):
            characters += each.bit_length() // 3 + 2
        elif isinstance(each, Decimal):
            characters += len(each.as_tuple().digits) + abs(each.adjusted()) + 2
        elif isinstance(each, list | tuple | dict):
            if depth >= MAXIMUM_VALUE_DEPTH:
                raise BudgetError(f"a value is nested more than {MAXIMUM_VALUE_DEPTH} deep")
            if items + len(waiting) + len(each) > MAXIMUM_VALUE_ITEMS:
                raise BudgetError(f"a value holds more than {MAXIMUM_VALUE_ITEMS:,} others")
            if isinstance(each, dict):
                waiting += [(key, depth + 1) for key in each]
                waiting += [(inner, depth + 1) for inner in each.values()]
            else:
                waiting += [(inner, depth + 1) for inner in each]
            characters += 4 * len(each)
        else:
            characters += 30
        if characters > MAXIMUM_VALUE_CHARACTERS:
            raise BudgetError(f"a value is longer than {MAXIMUM_VALUE_CHARACTERS:,} characters")
    return items, characters
