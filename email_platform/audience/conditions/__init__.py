"""Audience conditions: the JSON grammar, the fields it may name.

Invariant: whatever JSON a campaign carries either becomes an expression over allow-listed columns, with every
value a typed bound parameter, or is refused with `InvalidConditionError`. docs/conditions.md is the user's page.
"""

from email_platform.audience.conditions.grammar import AllOf, AnyOf, Comparison, Condition, Not, parse_condition

__all__ = ["AllOf", "AnyOf", "Comparison", "Condition", "Not", "parse_condition"]
