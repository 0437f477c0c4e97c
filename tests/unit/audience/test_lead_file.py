"""Rows of a file as leads: nothing is guessed, and a bad row is named and left out alone."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_platform.audience.lead_file import ImportedLead, LeadFile, RowProblem


def only(file: LeadFile, *cells: str) -> ImportedLead | RowProblem:
    (found,) = file.read([(7, cells)])
    return found


def test_a_row_becomes_a_lead_with_a_trimmed_address_and_attributes_as_they_are_written() -> None:
    file = LeadFile(["E-Mail", "first_name", "age", "country", "price", "note"], {"E-Mail": "email"}, ["price"])
    found = only(file, "\u00a0Ann@BÜCHER.example\t", " Ann ", "041"[1:], "de", "20.00", ' "quoted" ')
    assert isinstance(found, ImportedLead)
    assert found.columns == {"email": "Ann@xn--bcher-kva.example", "first_name": "Ann", "age": 41, "country": "DE"}
    assert found.attributes == '{"price":20.00,"note":" \\"quoted\\" "}'
    assert "Ann" not in repr(found)


def test_an_empty_cell_says_nothing() -> None:
    found = only(LeadFile(["email", "plan", "score"], {}, ["score"]), "a@example.com", "", " ")
    assert isinstance(found, ImportedLead)
    assert (found.columns, found.attributes) == ({"email": "a@example.com"}, "{}")


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (["", "1", "DE", "1"], "email: is empty"),
        (["no-at-sign", "1", "DE", "1"], "email: no address that can be mailed: An email address must have an @-sign"),
        (["a@example.com", "151", "DE", "1"], "age: must be a whole number from 0 to 150"),
        (["a@example.com", "1.5", "DE", "1"], "age: must be a whole number from 0 to 150"),
        (["a@example.com", "1", "Germany", "1"], "country: must be two letters, as DE (ISO 3166-1)"),
        (["a@example.com", "1", "DE", "1,5"], "score: is no number such as 17 or 20.00"),
        (["a@example.com", "1", "DE", "NaN"], "score: is no number such as 17 or 20.00"),
        (["a@example.com", "1", "DE"], "has 3 cells; the header has 4"),
        (["a@example.com\0", "1", "DE", "1"], "email: holds a NUL character"),
        (["a@example.com", "1", "DE", "\ud800"], "score: holds half a surrogate pair"),
    ],
)
def test_a_bad_row_is_named_without_its_values_and_touches_no_other(cells: list[str], problem: str) -> None:
    file = LeadFile(["email", "age", "country", "score"], {}, ["score"])
    bad, good = file.read([(2, cells), (3, ["b@example.com", "2", "AT", "3"])])
    assert isinstance(bad, RowProblem)
    assert (bad.number, bad.problem, bad.cells) == (2, problem, tuple(cells))
    assert isinstance(good, ImportedLead)


def test_attributes_of_more_than_a_row_may_hold_are_a_problem() -> None:
    found = only(LeadFile(["email", "note"], {}), "a@example.com", "x" * 300_000)
    assert isinstance(found, RowProblem)
    assert "more than 256 kB" in found.problem


@pytest.mark.parametrize(
    ("header", "names", "numbers", "words"),
    [
        (["address"], {}, [], "no column means `email`"),
        (["email"], {"E-Mail": "email"}, [], "there is no column 'E-Mail'"),
        (["email", "Email"], {"Email": "email"}, [], "two columns mean 'email'"),
        (["email", "first name"], {}, [], "'first name' cannot be an attribute"),
        (["email"], {}, ["price"], "there is no column 'price'"),
    ],
)
def test_a_wrong_header_is_named_with_the_mend(
    header: list[str], names: dict[str, str], numbers: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        LeadFile(header, names, numbers)


def test_a_file_of_rows_that_were_left_out_can_be_imported_again() -> None:
    file = LeadFile(["row", "problem", "email"], {})
    found = only(file, "2", "email: is empty", "a@example.com")
    assert isinstance(found, ImportedLead)
    assert (found.columns, found.attributes) == ({"email": "a@example.com"}, "{}")


@given(st.lists(st.text(), min_size=3, max_size=3))
def test_whatever_stands_in_a_row_it_becomes_a_lead_with_readable_attributes_or_a_problem(cells: list[str]) -> None:
    found = only(LeadFile(["email", "age", "note"], {}), *cells)
    if isinstance(found, ImportedLead):
        assert set(json.loads(found.attributes)) <= {"note"}


def test_a_leads_own_key_is_a_trimmed_text_that_fits() -> None:
    file = LeadFile(["No", "email"], {"No": "own_key"})
    found = only(file, " 007 ", "a@example.com")
    assert isinstance(found, ImportedLead)
    assert found.columns == {"email": "a@example.com", "own_key": "007"}
    assert only(file, "x" * 200, "a@example.com") == ImportedLead(
        7, {"email": "a@example.com", "own_key": "x" * 200}, "{}"
    )
    too_long = only(file, "x" * 201, "a@example.com")
    assert isinstance(too_long, RowProblem)
    assert too_long.problem == "own_key: has more than 200 characters"
