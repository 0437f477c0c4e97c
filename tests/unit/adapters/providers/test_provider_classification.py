"""The mechanism by which every adapter judges an answer."""

from __future__ import annotations

import aiohttp
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_platform.adapters.providers.classification import (
    MAXIMUM_QUOTED_CHARACTERS,
    ClassificationTable,
    Outcome,
    provider_error,
    quoted,
    retry_after_seconds,
    seconds_until_epoch,
    settle,
)
from email_platform.adapters.providers.http_transport import never_reached
from email_platform.domain.ports import RecipientResult
from email_platform.errors import AccountRefusedError, CallRejectedError, CallThrottledError, ProviderError

_TABLE = ClassificationTable(
    by_code={"quota": Outcome.ACCOUNT_REFUSED},
    by_status={503: Outcome.NOT_ACCEPTED},
    by_recipient_code={
        "slow": Outcome.THROTTLED,
        "down": Outcome.NOT_ACCEPTED,
        "paused": Outcome.ACCOUNT_REFUSED,
        "bad": Outcome.RECIPIENT,
        "odd": Outcome.UNCLEAR,
    },
    by_words={"worded": [("your account", Outcome.ACCOUNT_REFUSED), ("the address", Outcome.RECIPIENT)]},
)
_ACCEPTED = RecipientResult("accepted", "id")


def _rejected(code: str) -> RecipientResult:
    return RecipientResult("rejected", error_code=code, error_message="why")


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (429, "", Outcome.THROTTLED),
        (429, "quota", Outcome.ACCOUNT_REFUSED),
        (503, "", Outcome.NOT_ACCEPTED),
        (500, "", Outcome.UNKNOWN),
        (502, "", Outcome.UNKNOWN),
        (599, "", Outcome.UNKNOWN),
        (400, "", Outcome.UNLISTED),
        (422, "", Outcome.UNLISTED),
        (413, "", Outcome.SIZE),
        (401, "", Outcome.ACCOUNT_REFUSED),
        (404, "", Outcome.ACCOUNT_REFUSED),
        (302, "", Outcome.ACCOUNT_REFUSED),
        (408, "", Outcome.UNKNOWN),
        (204, "", Outcome.UNKNOWN),
        (101, "", Outcome.UNKNOWN),
    ],
)
def test_a_code_goes_before_a_status_and_the_defaults_come_last(status: int, code: str, outcome: Outcome) -> None:
    assert _TABLE.outcome(status, code) is outcome


@given(status=st.integers(100, 999), code=st.text(max_size=5))
def test_every_answer_has_an_error_of_the_tree(status: int, code: str) -> None:
    error = provider_error(_TABLE.outcome(status, code), "message", code=code)
    assert isinstance(error, ProviderError)


def test_an_unlisted_server_error_is_never_called_not_accepted() -> None:
    empty = ClassificationTable()
    assert {empty.outcome(status, "") for status in range(500, 600)} == {Outcome.UNKNOWN}


def test_a_mixed_answer_keeps_every_recipient_and_marks_the_deferred_ones() -> None:
    results = settle("p", [_ACCEPTED, _rejected("bad"), _rejected("slow"), _rejected("paused")], _TABLE)
    assert [result.error_code for result in results] == ["", "bad", "slow", "paused"]
    assert [result.status for result in results] == ["accepted", "rejected", "deferred", "deferred"]
    assert [result.throttled for result in results] == [False, False, True, False]


def test_a_refused_and_a_deferred_recipient_without_an_accepted_one_are_results_too() -> None:
    results = settle("p", [_rejected("bad"), _rejected("slow")], _TABLE)
    assert [result.status for result in results] == ["rejected", "deferred"]


def test_a_call_of_which_everybody_failed_for_the_moment_is_deferred_one_by_one() -> None:
    assert [result.status for result in settle("p", [_rejected("down"), _rejected("down")], _TABLE)] == ["deferred"] * 2


def test_a_call_refused_for_the_accounts_sake_in_every_entry_is_refused_as_a_whole() -> None:
    with pytest.raises(CallThrottledError):
        settle("p", [_rejected("down"), _rejected("slow")], _TABLE)
    with pytest.raises(AccountRefusedError):
        settle("p", [_rejected("slow"), _rejected("paused")], _TABLE)


def test_of_one_code_the_words_say_whose_fault_it_is() -> None:
    assert _TABLE.outcome(400, "worded", "Your account is paused") is Outcome.ACCOUNT_REFUSED
    assert _TABLE.outcome(400, "worded", "The address is wrong") is Outcome.RECIPIENT
    assert _TABLE.outcome(400, "worded", "something else") is Outcome.UNLISTED
    assert _TABLE.outcome(400, "other", "your account") is Outcome.UNLISTED
    assert _TABLE.outcome(500, "worded", "your account") is Outcome.UNKNOWN, "words judge refusals alone"


def test_a_recipient_is_deferred_for_the_accounts_sake_with_a_mark() -> None:
    results = settle("p", [_ACCEPTED, _rejected("paused"), _rejected("slow")], _TABLE)
    assert [result.account_refused for result in results] == [False, True, False]


def test_a_code_that_nobody_listed_is_never_booked_on_a_recipient() -> None:
    results = settle("p", [_ACCEPTED, _rejected("new"), _rejected("bad")], _TABLE)
    assert [result.status for result in results] == ["accepted", "deferred", "rejected"]


def test_an_unclear_code_is_the_recipients_only_beside_accepted_ones() -> None:
    assert [one.status for one in settle("p", [_ACCEPTED, _rejected("odd")], _TABLE)] == ["accepted", "rejected"]
    assert [one.status for one in settle("p", [_rejected("bad"), _rejected("odd")], _TABLE)] == ["rejected", "deferred"]


@pytest.mark.parametrize("codes", [["odd"], ["odd", "odd"], ["new", "odd"], ["new"]])
def test_a_call_of_which_nobody_knows_why_nobody_was_taken_is_refused_as_a_whole(codes: list[str]) -> None:
    with pytest.raises(CallRejectedError) as refused:
        settle("p", [_rejected(code) for code in codes], _TABLE)
    assert (refused.value.blame, refused.value.code, refused.value.culprits) == ("unlisted", codes[0], frozenset())


@pytest.mark.parametrize(
    ("outcome", "blame"),
    [
        (Outcome.RECIPIENT, "recipient"),
        (Outcome.SIZE, "size"),
        (Outcome.UNLISTED, "unlisted"),
        (Outcome.UNCLEAR, "unlisted"),
    ],
)
def test_a_refused_call_says_whose_fault_it_is(outcome: Outcome, blame: str) -> None:
    error = provider_error(outcome, "message", code="c", culprits=frozenset({3}))
    assert isinstance(error, CallRejectedError)
    assert error.blame == blame
    assert error.culprits == (frozenset({3}) if blame == "recipient" else frozenset())


def test_a_call_of_permanent_refusals_is_an_ordinary_answer() -> None:
    assert settle("p", [_rejected("bad")], _TABLE) == (_rejected("bad"),)
    assert settle("p", [], _TABLE) == ()


@given(st.text(max_size=600))
def test_a_quotation_is_one_short_line(text: str) -> None:
    shown = quoted(text)
    assert len(shown) <= MAXIMUM_QUOTED_CHARACTERS
    assert "\n" not in shown
    assert "\r" not in shown


def test_a_quotation_hides_addresses_and_secrets() -> None:
    shown = quoted('{"to":"ann.lee+x@mail.example.com","key":"s3cret"} <bob@example.org>', "s3cret")
    assert shown == '{"to":"<address>","key":"<secret>"} <<address>>'


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("3", "", 3.0),
        ("0.25", "", 0.25),
        ("", "", None),
        ("-1", "", None),
        ("soon", "", None),
        ("nan", "", None),
        ("inf", "", None),
        ("Tue, 24 Nov 2026 20:00:09 GMT", "Tue, 24 Nov 2026 20:00:00 GMT", 9.0),
        ("Tue, 24 Nov 2026 20:00:09 GMT", "Tue, 24 Nov 2026 21:00:00 GMT", 0.0),
        ("Tue, 24 Nov 2026 20:00:09 GMT", "", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_against_the_answers_own(value: str, date: str, seconds: float | None) -> None:
    assert retry_after_seconds({"retry-after": value, "date": date}) == seconds


def test_a_reset_time_counts_from_the_answers_date() -> None:
    headers = {"date": "Tue, 24 Nov 2026 20:00:00 GMT"}
    assert seconds_until_epoch("1795550407", headers) == 7.0
    assert seconds_until_epoch("1795550399", headers) == 0.0
    assert seconds_until_epoch("1795550407", {}) is None
    assert seconds_until_epoch("", headers) is None


def _as_the_transport_raises(cause: Exception) -> Exception:
    """httpx-aiohttp names connect failures, resets and disconnects alike."""
    error = httpx.ConnectTimeout("")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("cause", "reached"),
    [
        (aiohttp.ConnectionTimeoutError(), False),
        (aiohttp.InvalidURL("x"), False),
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.ClientOSError(104, "reset"), True),
        (aiohttp.ClientConnectionResetError(), True),
        (aiohttp.SocketTimeoutError(), True),
        (aiohttp.ClientPayloadError(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_cause_decides_whether_the_provider_was_reached(cause: Exception, reached: bool) -> None:
    assert never_reached(_as_the_transport_raises(cause)) is not reached
    assert never_reached(cause) is not reached


def test_without_a_cause_httpx_own_words_decide() -> None:
    assert never_reached(httpx.ConnectError(""))
    assert never_reached(httpx.PoolTimeout(""))
    assert not never_reached(httpx.ReadTimeout(""))
    assert not never_reached(httpx.RemoteProtocolError(""))
    assert not never_reached(httpx.WriteError(""))
