"""What a message is warned about."""

from __future__ import annotations

import pytest

from email_platform.content.review import review_message

URL = "https://mail.example.com/unsubscribe?c=1&l=2"
HEADERS = {"List-Unsubscribe": f"<{URL}>, <mailto:u@example.com>"}
HTML = f"<p>Hello</p><a href='{URL.replace('&', '&amp;')}'>unsubscribe</a>"
TEXT = f"Hello\n{URL}\n"


def test_a_message_without_a_fault_has_no_remark() -> None:
    good = (
        HTML + '<h1 id="top">x</h1><a href="#top">up</a><a name="x"></a><a href="mailto:a@example.com">m</a>'
        '<a href="tel:+4930123">t</a><img src="https://example.com/a.png" alt=""><style>a {color: {{x}}}</style>'
    )
    assert review_message("The spring release is here!", good, TEXT, HEADERS) == ()


@pytest.mark.parametrize(
    ("subject", "html", "text", "words"),
    [
        ("s", "<p>Hello</p>", TEXT, "the html part has no unsubscribe link"),
        ("s", HTML, "Hello", "the text part has no unsubscribe link"),
        ("s", HTML, " ", "there is no text part"),
        ("s", "", TEXT, "there is no html part"),
        ("s", HTML + '<img src="https://example.com/a.png">', TEXT, "1 images have no alt"),
        ("s", HTML + '<img alt="x">', TEXT, "<img> has no src"),
        ("s", HTML + '<a href="">x</a>', TEXT, "<a> has an empty href"),
        ("s", HTML + "<a href>x</a>", TEXT, "<a> has an empty href"),
        ("s", HTML + '<a href="#">x</a>', TEXT, "<a> has an empty href"),
        ("s", HTML + '<a href="#gone">x</a>', TEXT, "'#gone', which is nowhere"),
        ("s", HTML + '<a href="/about">x</a>', TEXT, "without https://"),
        ("s", HTML + '<a href="www.example.com">x</a>', TEXT, "without https://"),
        ("s", HTML + '<a href="https://">x</a>', TEXT, "without a host"),
        ("s", HTML + '<a href="https://shop">x</a>', TEXT, "without a host"),
        ("s", HTML + '<a href="https://[::1">x</a>', TEXT, "cannot be read"),
        ("s", HTML + '<a href="https://example.com:port/">x</a>', TEXT, "cannot be read"),
        ("s", HTML + '<a href="https://example.com/a b">x</a>', TEXT, "a blank in its address"),
        ("s", HTML + '<a href="javascript:void(0)">x</a>', TEXT, "mail programs do not open"),
        ("s", HTML + '<a href="mailto:">x</a>', TEXT, "mailto: without an address"),
        ("s", HTML + '<a href="https://example.com/{{ id }}">x</a>', TEXT, "the html part has '{{'"),
        ("s", HTML + "<p>Dear *|FNAME|*</p>", TEXT, "'*|FNAME|*', which looks like a left-over"),
        ("Hello {{ name }}", HTML, TEXT, "the subject has '{{'"),
        ("s", HTML, TEXT + "{% if x %}", "the text part has '{%'"),
        (" ", HTML, TEXT, "the subject is empty"),
        ("BUY NOW OR NEVER", HTML, TEXT, "in capitals"),
        ("Re: your order", HTML, TEXT, "looks like a reply"),
        ("Now!! Here", HTML, TEXT, "several exclamation marks"),
    ],
)
def test_each_fault_has_one_remark_that_names_it(subject: str, html: str, text: str, words: str) -> None:
    remarks = review_message(subject, html, text, HEADERS)
    assert len(remarks) == 1, remarks
    assert words in remarks[0]
