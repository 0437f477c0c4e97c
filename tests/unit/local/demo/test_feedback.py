"""What the demo's line about bounced and complained leads asks."""

from __future__ import annotations

from email_platform.local.demo.feedback import left_out_line

LOST = {"bounced@example.com", "complained@example.com", "elsewhere@example.com"}


def test_a_lead_that_complained_and_is_excluded_for_another_reason_is_left_out() -> None:
    line = left_out_line(4, LOST, {"bounced@example.com", "complained@example.com"}, {"fine@example.com"})

    assert line.holds
    assert line.left == ("met the condition again", 2)


def test_a_lost_address_that_is_eligible_breaks_the_line_even_where_another_row_of_it_is_excluded() -> None:
    line = left_out_line(4, LOST, {"bounced@example.com"}, {"bounced@example.com", "fine@example.com"})

    assert not line.holds
