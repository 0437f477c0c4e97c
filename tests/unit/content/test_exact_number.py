"""Numbers of attributes read in a message as PostgreSQL keeps them, and can be reckoned with."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from email_platform.content.compile import compile_content
from email_platform.content.exact_number import ExactNumber, attributes_of
from email_platform.content.problem import ContentProblem
from email_platform.content.render import render_rows
from email_platform.domain.campaigns import CampaignContent
from tests.unit.content.test_pieces import SIGNER, manifest, table


def printed(html: str, document: str) -> str:
    of = CampaignContent("s", html, "")
    leads = table({})
    leads = leads.set_column(leads.column_names.index("attributes"), "attributes", pa.array([document]))
    rendered = render_rows(compile_content(of), leads, manifest(of), SIGNER)
    (values,) = rendered.values
    assert not isinstance(values, ContentProblem), values
    return rendered.skeleton.message(values).html


NUMERIC = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40).map(
    lambda number: format(number, "f")
)


@settings(deadline=None)
@given(NUMERIC)
def test_a_number_is_printed_with_the_digits_that_postgresql_keeps(digits: str) -> None:
    assert printed("{{ attributes.n }} {{ attributes.n | default(0) }} {{ [attributes.n] }}", f'{{"n": {digits}}}') == (
        f"{digits} {digits} [{digits}]"
    )


@pytest.mark.parametrize(
    ("expression", "document", "expected"),
    [
        ("attributes.price", '{"price": 20.00}', "20.00"),
        ("attributes.price", '{"price": 0.1}', "0.1"),
        ("attributes.price", '{"price": 1e3}', "1000"),
        ("attributes.id", '{"id": 12345678901234567890123456789}', "12345678901234567890123456789"),
        ("attributes.id + 1", '{"id": 12345678901234567890123456789}', "12345678901234567890123456790"),
        ("attributes.price | round(2)", '{"price": 20.005}', "20.01"),
        ("attributes.price | round(2)", '{"price": 20.5}', "20.50"),
        ("attributes.price | round(2)", '{"price": 20}', "20"),
        ("attributes.price | round(1, 'floor')", '{"price": 20.19}', "20.1"),
        ("attributes.price | round(-1)", '{"price": 25.1}', "30"),
        ("attributes.price | round | int", '{"price": 19.5}', "20"),
        ("attributes.price * 3", '{"price": 20.00}', "60.00"),
        ("attributes.price * 1.19", '{"price": 20.00}', "23.8000"),
        ("1.19 * attributes.price", '{"price": 20.00}', "23.8000"),
        ("attributes.price + 0.1", '{"price": 0.20}', "0.30"),
        ("10 - attributes.price", '{"price": 0.50}', "9.50"),
        ("attributes.price / 4", '{"price": 10.00}', "2.50"),
        ("attributes.price % 3", '{"price": -7.5}', "1.5"),
        ("attributes.price // 2", '{"price": -7.5}', "-4"),
        ("-attributes.price", '{"price": 7.50}', "-7.50"),
        ("attributes.price | abs", '{"price": -7.50}', "7.50"),
        ("attributes.items | sum", '{"items": [1.10, 2, 3.20]}', "6.30"),
        ("attributes.items | sum(attribute='price')", '{"items": [{"price": 1.10}, {"price": 2.00}]}', "3.10"),
        ("attributes.items | max", '{"items": [1.10, 2, 0.5]}', "2"),
        ("attributes.items | sort | join(' ')", '{"items": [1.10, 2, 0.50]}', "0.50 1.10 2"),
        ("attributes.price == 0.1", '{"price": 0.10}', "True"),
        ("attributes.price == 20", '{"price": 20.00}', "True"),
        ("attributes.price > 19.99", '{"price": 20.00}', "True"),
        ("20 <= attributes.price < 20.01", '{"price": 20.00}', "True"),
        ("attributes.price in [20, 30]", '{"price": 20.00}', "True"),
        ("[attributes.price, 20, 20.5] | unique | join(' ')", '{"price": 20.50}', "20.50 20"),
        ("attributes.price is number", '{"price": 20.00}', "True"),
        ("attributes.price is float", '{"price": 20.00}', "True"),
        ("attributes.price ~ ' EUR'", '{"price": 20.00}', "20.00 EUR"),
        ("attributes.price | string | replace('.', ',')", '{"price": 20.00}', "20,00"),
        ("attributes.price if attributes.price else 'free'", '{"price": 0.00}', "free"),
        ("attributes.text", '{"text": "1.50 is no number", "n": 1.5}', "1.50 is no number"),
    ],
)
def test_numbers_can_be_reckoned_with_and_keep_their_digits(expression: str, document: str, expected: str) -> None:
    assert printed("{{ " + expression + " }}", document) == expected


def test_the_case_from_the_field_reads_as_it_is_kept() -> None:
    assert printed("{{ attributes.price }}", '{"price": 20.00}') == "20.00"


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6), st.sampled_from("+-*"))
def test_sums_differences_and_products_are_exact(left: int, right: int, operator: str) -> None:
    first, second = ExactNumber(f"{left}.25"), Fraction(right, 8)
    other = right / 8  # exact in binary as well
    results: dict[str, tuple[Any, Fraction]] = {
        "+": (first + other, Fraction(first) + second),
        "-": (first - other, Fraction(first) - second),
        "*": (first * other, Fraction(first) * second),
    }
    result, expected = results[operator]
    assert type(result) is ExactNumber
    assert Fraction(result) == expected


@given(st.floats(-(2.0**53), 2.0**53) | st.integers())
def test_equal_numbers_have_equal_hashes(number: float) -> None:
    exact = ExactNumber(repr(number))
    assert exact == number
    assert hash(exact) == hash(number)
    assert not exact < number
    assert exact <= number


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_attributes_without_fractions_are_read_as_json_says(value: Any) -> None:
    document = json.dumps({"a": value})
    assert attributes_of(document) == json.loads(document)


@pytest.mark.parametrize(
    "document",
    [
        '{"a": 1.5, "b": NaN}',
        '{"a": 1e99999}',
        '{"a": 1.' + "0" * 2000 + "}",
        '{"a": ' + "9" * 2000 + "}",
        "{broken 1.5",
    ],
)
def test_numbers_that_cannot_be_kept_exactly_are_refused(document: str) -> None:
    with pytest.raises(ValueError, match=r"digits|JSON|Expecting"):
        attributes_of(document)


def test_it_is_a_decimal_for_whoever_asks() -> None:
    assert isinstance(ExactNumber("1.50"), Decimal)
    assert f"{ExactNumber('1.50')}" == "1.50"
