"""Audience conditions: the JSON grammar, the fields it may name, and its translation to SQL.

Invariant: whatever JSON a campaign carries either becomes an expression over allow-listed columns, with every
value a typed bound parameter, or is refused with `InvalidConditionError`. docs/conditions.md is the user's page.
"""

from email_platform.conditions.grammar import AllOf, AnyOf, Comparison, Condition, Not, parse_condition
from email_platform.conditions.sql import where_clause

__all__ = ["AllOf", "AnyOf", "Comparison", "Condition", "Not", "parse_condition", "where_clause"]
