"""Events and bodies without people who were erased.

Invariant: an event of somebody who was erased counts as before (its identity, type and message stay), under the
pseudonym and without details: what a provider says beside it is about the person (IP address, browser, place). The
archive of bodies, which is kept to be read again, loses what names the person: those elements of a body that is, or
has, a list of events; any other body is left out. A body in the quarantine keeps its form, with the pseudonym in the
address's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from email_platform.domain.erasure import ErasedLookup, ErasedPerson, erased_among
from email_platform.events.event import Event
from email_platform.events.normalising import NormalisedBody
from email_platform.events.received import ReceivedBody

NO_DETAILS = "{}"


def erased_in_bodies(lookup: ErasedLookup, bodies: Sequence[ReceivedBody]) -> list[ErasedPerson]:
    """The people who were erased and whom these bodies name."""
    return erased_among(lookup, (_text(body) for body in bodies))


def without_people(result: NormalisedBody, people: Sequence[ErasedPerson]) -> NormalisedBody:
    """The body's events with pseudonyms."""
    return NormalisedBody(tuple(event_without(event, people) for event in result.events), result.problem)


def event_without(event: Event, people: Sequence[ErasedPerson]) -> Event:
    """The event with a pseudonym, where it is one of these people's."""
    for person in people:
        if person.is_named_in(event.recipient):
            event = replace(event, recipient=person.pseudonym, details=NO_DETAILS)
        else:
            event = replace(event, details=person.without(event.details))
    return event


def body_without(body: ReceivedBody, people: Sequence[ErasedPerson]) -> ReceivedBody:
    """The body with pseudonyms in its text."""
    text = _text(body)
    for person in people:
        text = person.without(text)
    return replace(body, body=text.encode("utf-8", "surrogateescape"))


def archived_without(body: ReceivedBody, people: Sequence[ErasedPerson]) -> ReceivedBody | None:
    """What of the body may stay in the archive; None for nothing."""
    text = _text(body)
    if not any(person.is_named_in(text) for person in people):
        return body
    try:
        document = orjson.loads(body.body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(document, list):
        document = _unnamed(document, people)
    elif isinstance(document, dict):  # {"events": [...]}
        document = {
            name: _unnamed(value, people) if isinstance(value, list) else value for name, value in document.items()
        }
        if not any(value for value in document.values() if isinstance(value, list)):
            return None
    return replace(body, body=orjson.dumps(document)) if document and _unnamed([document], people) else None


def _unnamed(elements: list[Any], people: Sequence[ErasedPerson]) -> list[Any]:
    """The elements that name none of these people."""
    return [one for one in elements if not any(person.is_named_in(orjson.dumps(one).decode()) for person in people)]


def _text(body: ReceivedBody) -> str:
    return body.body.decode("utf-8", "surrogateescape")
