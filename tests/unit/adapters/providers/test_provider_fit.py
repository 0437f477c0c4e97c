"""A call is cut by what fits now: as few calls as the documented limits allow, and nobody fails for another's size."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from email_platform.adapters.providers.limits import (
    MAILGUN_LIMITS,
    POSTMARK_LIMITS,
    RESEND_LIMITS,
    SENDGRID_LIMITS,
    SES_LIMITS,
    SIMULATOR_LIMITS,
)
from email_platform.adapters.providers.mailgun import MailgunProvider
from email_platform.adapters.providers.postmark import PostmarkProvider
from email_platform.adapters.providers.registry import provider_names
from email_platform.adapters.providers.resend import ResendProvider
from email_platform.adapters.providers.sendgrid import SendGridProvider
from email_platform.adapters.providers.ses import SesProvider
from email_platform.adapters.providers.simulator import SimulatorProvider
from email_platform.domain.identity import call_id, message_id
from email_platform.domain.message import Piece, Skeleton
from email_platform.domain.ports import BulkCall, EmailProvider, ProviderLimits, Recipient
from email_platform.errors import InvalidTemplateError
from tests.fakes.assembling import put_together

_LIMITS: dict[str, ProviderLimits] = {
    "simulator": SIMULATOR_LIMITS,
    "ses": SES_LIMITS,
    "sendgrid": SENDGRID_LIMITS,
    "sendgrid-template": SENDGRID_LIMITS,
    "postmark": POSTMARK_LIMITS,
    "resend": RESEND_LIMITS,
    "mailgun": MAILGUN_LIMITS,
}
Build = Callable[..., EmailProvider]


@pytest.fixture(scope="module")
def build() -> Iterator[Build]:
    """Makes an adapter with other limits; all share one transport, since nothing is sent."""
    transport = httpx.AsyncHTTPTransport(verify=False)
    aws = SimpleNamespace(close=lambda: None)
    builders: dict[str, Callable[[ProviderLimits], EmailProvider]] = {
        "simulator": lambda limits: SimulatorProvider(
            base_url="http://x", api_key="k", limits=limits, transport=transport
        ),
        "ses": lambda limits: SesProvider(aws, limits=limits),
        "sendgrid": lambda limits: SendGridProvider(api_key="k", limits=limits, transport=transport),
        "sendgrid-template": lambda limits: SendGridProvider(
            api_key="k", template_id="d-1", limits=limits, transport=transport
        ),
        "postmark": lambda limits: PostmarkProvider(server_token="k", limits=limits, transport=transport),
        "resend": lambda limits: ResendProvider(api_key="k", limits=limits, transport=transport),
        "mailgun": lambda limits: MailgunProvider(
            api_key="k", domain="mg.example.com", limits=limits, transport=transport
        ),
    }
    yield lambda name, **changes: builders[name](replace(_LIMITS[name], **changes))
    asyncio.run(transport.aclose())


def _call(skeleton: Skeleton, rows: list[tuple[str, ...]]) -> BulkCall:
    recipients = tuple(
        Recipient(lead_id, str(message_id(7, lead_id)), f"lead{lead_id}@example.com", values)
        for lead_id, values in enumerate(rows, start=1)
    )
    return BulkCall(call_id(7, 0, 0), 7, "news@example.org", "News", "a@example.org", skeleton, recipients, {"t": "x"})


def _newsletter(html: tuple[Piece, ...], text: tuple[Piece, ...] = ("Read it online: ", 4)) -> Skeleton:
    return Skeleton(
        subject=("News for ", 0),
        html=html,
        text=text,
        headers={
            "List-Unsubscribe": ("<", 4, ">"),
            "List-Unsubscribe-Post": ("List-Unsubscribe=One-Click",),
        },
        value_count=5,
    )


def _leads(count: int) -> list[tuple[str, ...]]:
    return [
        (f"Ann {number}", "Prague", "gold", f"{number} points", f"https://example.org/u/{number:060d}")
        for number in range(count)
    ]


def _cut(provider: EmailProvider, call: BulkCall) -> list[BulkCall]:
    """Calls as large as fit, one after the other."""
    calls = []
    rest = call
    while rest.recipients:
        fit = provider.fit(rest)
        assert fit.count > 0, fit.problem
        calls.append(replace(rest, recipients=rest.recipients[: fit.count]))
        rest = replace(rest, recipients=rest.recipients[fit.count :])
    return calls


_HUNDRED_KB = _newsletter(
    (
        *("<h1>", 0, "</h1>" + "<p style='color:#333'>Lorem ipsum dolor sit amet</p>\n" * 1000, 1, 2, 3),
        *("<p>Consectetur adipiscing elit, sed do eiusmod</p>\n" * 1000, "<a href='", 4, "'>unsubscribe</a>"),
    )
)
# To 1,000 leads, by the count alone 50, 1,000, 500, 100 and 1,000 a call; of 105 kB only 473 whole messages fit 50 MB.
_CALLS_OF_30_KB = {"ses": 20, "sendgrid": 1, "postmark": 2, "resend": 10, "mailgun": 1}
_CALLS_OF_100_KB = {**_CALLS_OF_30_KB, "postmark": 3}


def _thirty_kb() -> Skeleton:
    """The newsletter of 30 kB from the field: static HTML with a name and a link."""
    paragraph = "<p style='color:#333;font-family:sans-serif'>Lorem ipsum dolor sit amet, consectetur.</p>\n"
    return _newsletter(("<html><body><h1>Hello ", 0, "</h1>" + paragraph * 350 + "<a href='", 4, "'>out</a>", 1, 2, 3))


def test_every_known_provider_is_covered_here() -> None:
    assert set(_LIMITS) - {"sendgrid-template"} == set(provider_names())
    assert set(_CALLS_OF_30_KB) == set(provider_names()) - {"simulator"}


@pytest.mark.parametrize(
    ("skeleton", "name", "calls"),
    [
        *((_thirty_kb(), name, calls) for name, calls in _CALLS_OF_30_KB.items()),
        *((_HUNDRED_KB, name, calls) for name, calls in _CALLS_OF_100_KB.items()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_newsletter_goes_to_a_thousand_leads_in_as_few_calls_as_the_limits_allow(
    build: Build, skeleton: Skeleton, name: str, calls: int
) -> None:
    provider = build(name)
    call = _call(skeleton, _leads(1000))
    assert len("".join(piece for piece in skeleton.html if isinstance(piece, str))) > 30_000
    cut = _cut(provider, call)
    assert len(cut) == calls
    messages = [message for one in cut for message in put_together(provider.name, provider.encode(one).body)]
    assert [address for address, _ in messages] == [recipient.address for recipient in call.recipients]
    for recipient, (_, message) in zip(call.recipients, messages, strict=True):
        assert message == skeleton.message(recipient.values)
    limit_bytes = provider.limits.body_bytes
    if limit_bytes is not None and len(cut) > 1000 // provider.limits.recipients_per_call:
        # One more would not have fitted.
        more = replace(call, recipients=call.recipients[: len(cut[0].recipients) + 1])
        with pytest.raises(InvalidTemplateError, match=str(limit_bytes)):
            provider.encode(more)


@pytest.mark.parametrize("name", _LIMITS)
def test_an_address_or_a_value_that_cannot_be_sent_is_that_recipients_problem_alone(build: Build, name: str) -> None:
    provider = build(name)
    call = _call(_thirty_kb(), _leads(4))
    first, second, third, fourth = call.recipients
    odd = replace(second, address="ann@example.com\nBcc: x@example.com")
    call = replace(call, recipients=(first, odd, third, fourth))
    assert provider.fit(call).count == 1
    fit = provider.fit(replace(call, recipients=call.recipients[1:]))
    assert fit.count == 0
    assert fit.problem is not None
    assert "one line" in fit.problem
    assert "ann@" not in fit.problem
    assert provider.fit(replace(call, recipients=call.recipients[2:])).count == 2


@pytest.mark.parametrize("name", _LIMITS)
@pytest.mark.parametrize("values", [("\ud800", "", "", "", "u"), ("a\nb", "", "", "", "u"), ("", "", "", "", "a\rb")])
def test_a_value_that_no_message_can_carry_is_that_recipients_problem_alone(
    build: Build, name: str, values: tuple[str, ...]
) -> None:
    provider = build(name)
    call = _call(_thirty_kb(), [values, *_leads(2)])
    fit = provider.fit(call)
    assert fit.count == 0
    assert fit.problem is not None
    assert provider.fit(replace(call, recipients=call.recipients[1:])).count == 2
    with pytest.raises(InvalidTemplateError, match="lead 1"):
        provider.encode(call)


@pytest.mark.parametrize("name", [name for name, limits in _LIMITS.items() if limits.body_bytes is not None])
def test_a_value_too_large_for_any_call_is_that_recipients_problem_alone(build: Build, name: str) -> None:
    provider = build(name, body_bytes=60_000)
    call = _call(_thirty_kb(), _leads(3))
    first, second, third = call.recipients
    large = replace(second, values=(*second.values[:3], "x" * 60_000, second.values[4]))
    call = replace(call, recipients=(large, first, third))
    fit = provider.fit(call)
    assert fit.count == 0
    assert fit.problem is not None
    assert "60000" in fit.problem
    assert provider.fit(replace(call, recipients=call.recipients[1:])).count >= 1


@pytest.mark.parametrize("name", [name for name, limits in _LIMITS.items() if limits.body_bytes is not None])
def test_a_skeleton_too_large_for_any_call_is_the_templates_fault_and_booked_on_nobody(build: Build, name: str) -> None:
    provider = build(name, body_bytes=20_000)
    with pytest.raises(InvalidTemplateError, match="too large for everybody"):
        provider.fit(_call(_thirty_kb(), _leads(3)))


@pytest.mark.parametrize(
    ("name", "html", "found"),
    [
        ("postmark", "x" * 5_000_001, "a body of 5000001 bytes"),
        ("postmark", "x" * 5_000_000, "in base64"),
        ("resend", "x" * 30_000_000, "in base64"),
    ],
)
def test_a_message_above_the_providers_size_is_refused_before_it_is_put_together(
    build: Build, name: str, html: str, found: str
) -> None:
    provider = build(name)
    text = "y" * 4_000_000
    with pytest.raises(InvalidTemplateError, match=found):
        provider.fit(_call(_newsletter((html,), (text,)), _leads(1)))
    skeleton = _newsletter((3,), (text,))
    fit = provider.fit(_call(skeleton, [("a", "b", "c", html, "d")]))
    assert fit.count == 0
    assert fit.problem is not None
    assert found in fit.problem


@pytest.mark.parametrize("name", ["sendgrid", "sendgrid-template", "mailgun"])
def test_two_recipients_with_one_address_are_in_two_calls_where_the_address_tells_them_apart(
    build: Build, name: str
) -> None:
    call = _call(_thirty_kb(), _leads(3))
    first, second, third = call.recipients
    twice = replace(call, recipients=(first, replace(second, address=first.address.upper()), third))
    assert [len(one.recipients) for one in _cut(build(name), twice)] == [1, 2]
    # One domain in two spellings is one address for the provider, and would be one key of Mailgun's variables.
    spelled = replace(first, address="ann@bücher.example"), replace(second, address="ann@xn--bcher-kva.example")
    assert [len(one.recipients) for one in _cut(build(name), replace(call, recipients=spelled))] == [1, 1]
    with pytest.raises(InvalidTemplateError, match="same address"):
        build(name).encode(replace(call, recipients=spelled))


def test_sendgrid_sends_those_apart_whose_values_are_no_substitutions(build: Build) -> None:
    rows = _leads(6)
    rows[2] = (*rows[2][:3], "x" * 10_000, rows[2][4])
    call = _call(_thirty_kb(), rows)
    assert [len(one.recipients) for one in _cut(build("sendgrid"), call)] == [2, 1, 3]
    assert [len(one.recipients) for one in _cut(build("sendgrid-template"), call)] == [2, 4]


_CHARACTERS = st.characters(exclude_categories=["Cs"])


@pytest.mark.parametrize("name", _LIMITS)
@settings(max_examples=25, deadline=None)
@given(
    static=st.text(_CHARACTERS, min_size=1, max_size=50),
    rows=st.lists(st.text(_CHARACTERS, max_size=200), min_size=1, max_size=12),
    spare_bytes=st.integers(0, 3000),
)
def test_what_fits_is_encoded_within_the_limit_and_one_more_would_not_be(
    build: Build, name: str, static: str, rows: list[str], spare_bytes: int
) -> None:
    skeleton = Skeleton(("Hello",), ("<p>", static, 0, 0), (static, 0), {"X-A": ("b",)}, 1)
    call = _call(skeleton, [(row,) for row in rows if "%recipient." not in row] or [("",)])
    unlimited = build(name)
    head = unlimited.encode(replace(call, recipients=call.recipients[:1]))
    provider = build(name, body_bytes=len(head.body) + spare_bytes + 200)
    fit = provider.fit(call)
    assert fit.count >= 1
    fitting = replace(call, recipients=call.recipients[: fit.count])
    assert len(provider.encode(fitting).body) <= (provider.limits.body_bytes or 0)
    if fit.count < len(call.recipients) and name != "sendgrid":
        more = unlimited.encode(replace(call, recipients=call.recipients[: fit.count + 1]))
        slack_bytes = 64 * (fit.count + 1)
        assert len(more.body) + slack_bytes > (provider.limits.body_bytes or 0)
