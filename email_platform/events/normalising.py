"""From a verified body to events of one schema, whichever provider wrote it.

Invariant: a body is either turned into events completely, or comes back with the problem, without any of its
content in it; one bad event of a batch withholds none of the good ones. A pure function of the received
body: normalising it again gives the same identities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from email_platform.errors import MalformedEventError
from email_platform.events.event import Event
from email_platform.events.formats import mailgun, platform, postmark, resend, sendgrid, ses, simulator
from email_platform.events.formats.reading import Notification, parse_json
from email_platform.events.received import ReceivedBody


@dataclass(frozen=True, slots=True)
class Format:
    """How one provider's bodies are read: into single items, and each item into events."""

    split: Callable[[Notification], Iterator[Any]]
    normalise: Callable[[Notification, Any], Iterator[Event]]


FORMATS: Mapping[str, Format] = {
    module.__name__.rpartition(".")[2]: Format(module.split, module.normalise)
    for module in (platform, simulator, ses, sendgrid, postmark, resend, mailgun)
}


@dataclass(frozen=True, slots=True)
class NormalisedBody:
    """What one body came to.

    Attributes:
        events: the good ones, in the body's order.
        problem: what could not be read, or empty. The body belongs into the quarantine then.
    """

    events: tuple[Event, ...]
    problem: str


def normalise_body(received: ReceivedBody) -> NormalisedBody:
    """Every event of the body that can be read, and the problem with the rest; raises nothing of the content."""
    form = FORMATS.get(received.provider)
    if form is None:
        return NormalisedBody((), "no format of this provider is known")
    events: list[Event] = []
    problems: list[str] = []
    try:
        document = parse_json(received.body)
        notification = Notification(
            received.provider, received.account, received.received_at, received.webhook_id, document
        )
        for index, item in enumerate(form.split(notification)):
            try:
                for event in form.normalise(notification, item):  # those before a fault are kept
                    events.append(event)  # noqa: PERF402
            except MalformedEventError as error:
                problems.append(f"event {index}: {error}")
            except Exception as error:  # a fault of ours: this one event waits for the mend, no other does
                problems.append(f"event {index}: {type(error).__name__} while it was read")
    except MalformedEventError as error:
        problems.append(str(error))
    shown = "; ".join(problems[:3])
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return NormalisedBody(tuple(events), shown + more)
