"""The two newsletters that are sent: of 2 kB and of 30 kB, each with five personal values and an unsubscribe link."""

from __future__ import annotations

from collections.abc import Mapping

_PERSONAL = (
    "<p>Hello {{ first_name }} {{ last_name | default('') }},</p>"
    "<p>you have {{ attributes.points }} points in {{ city }}, plan {{ plan | default('free') }}.</p>"
)
_PARAGRAPH = (
    '<tr><td style="padding:12px 24px;font:16px/24px Arial,sans-serif;color:#333333">Spring is here, and so are our '
    'new offers: <a href="https://shop.example.com/offers?utm_source=newsletter">have a look</a>.</td></tr>'
)
_FOOT = '<p><a href="{{ unsubscribe_url }}">Unsubscribe</a></p>'


def newsletter(html_bytes: int) -> Mapping[str, str]:
    """Columns of ``campaign`` with an HTML part of about this size."""
    paragraphs = max(1, (html_bytes - len(_PERSONAL) - len(_FOOT)) // len(_PARAGRAPH))
    return {
        "subject_template": "{{ first_name }}, your {{ city }} offers",
        "html_template": f"<html><body>{_PERSONAL}<table>{_PARAGRAPH * paragraphs}</table>{_FOOT}</body></html>",
        "text_template": "Hello {{ first_name }}, you have {{ attributes.points }} points. {{ unsubscribe_url }}",
    }
