"""A whole small old system to practise on: users, senders, customers, campaigns, and the emails that it sent.

Invariant: the same `OldSystem` gives the same rows, whichever database they go to and on whichever day they are made;
and the rows agree with one another as a real system's do: an email went to a customer who was there, met the
campaign's condition and had not opted out, at the address that the customer had then.

What a real one has that a careless move trips over, in shares that `SHARES` gives: several customers with one address,
no address, white space around it, an address that is none, a domain in another script, customers who opted out, who
are marked as deleted, who are gone altogether while their emails stay, whose address changed since; emails that failed,
bounced, or stayed queued; a lead mailed twice by one campaign.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from email_platform.local.demo.lead_vocabulary import COUNTRIES, NAMES

Row = dict[str, Any]

SHARES: Mapping[str, float] = {
    "address of another": 0.03, "no address": 0.01, "white space": 0.01, "no real address": 0.01, "other script": 0.01,
    "opted out": 0.05, "marked as deleted": 0.02, "gone": 0.01, "moved": 0.02,
}  # fmt: skip
"""Of customers; one may have several of these."""
_STATUSES = {"sent": 0.93, "bounced": 0.04, "failed": 0.02, "queued": 0.01}
_MAILED_TWICE = 0.001
_PLANS = ("free", "plus", "pro")
_INTERESTS = ("bikes", "books", "garden", "kitchen", "music", "travel")
_USERS = (("ada@shop.example", "Ada Byron"), ("grace@shop.example", "Grace Murray"), ("linus@shop.example", "Linus T."))
_SENDERS = (("news@shop.example", "Shop News"), ("offers@shop.example", "Shop Offers"), ("hello@shop.example", "Shop"))
_SUBJECTS = (
    "New this month",
    "Your offer, {{ first_name }}",
    "Sale ends on Sunday",
    "50 % off für alle 😀",
    "It's here",
)
_ERRORS = ("421 try again later", "550 5.1.1 <{email}>: user unknown", "Throttling: maximum rate exceeded")


@dataclass(frozen=True)
class OldSystem:
    """What the old system has had since its first month; `tables` gives its rows.

    Attributes:
        customers: how many it ever had.
        first_month: its first day is the system's.
        months, campaigns_per_month: how long it has been sending, and how often.
        seed: names the rows; another seed makes others.

    Length: every table's rows are drawn from one stream of random numbers, so that they are the same each time.
    """

    customers: int
    first_month: date
    months: int
    campaigns_per_month: int = 2
    seed: int = 1
    _random: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_random", random.Random(self.seed))  # noqa: S311 - to be repeated

    @cached_property
    def tables(self) -> Mapping[str, Sequence[Row]]:
        """The rows of each table, in the order in which they can be inserted.

        ``users``, ``senders``, ``customer``, ``campaign`` and ``email``; times are UTC.
        """
        users = [
            {"id": n, "email": email, "name": name, "created_at": self._start} for n, (email, name) in _numbered(_USERS)
        ]
        senders = [
            {"id": n, "user_id": n, "from_address": email, "from_name": name}
            for n, (email, name) in _numbered(_SENDERS)
        ]
        everybody = self._everybody()
        campaigns = [self._campaign(number) for number in range(1, self.months * self.campaigns_per_month + 1)]
        emails = self._emails(campaigns, everybody)
        customers = [{**one.row, "mail": one.mail_now} for one in everybody if not one.is_gone]
        return {"users": users, "senders": senders, "customer": customers, "campaign": campaigns, "email": emails}

    @property
    def _start(self) -> datetime:
        return datetime(self.first_month.year, self.first_month.month, 1, 8, tzinfo=UTC)

    @property
    def _end(self) -> datetime:
        return self._month(self.months)

    def _month(self, number: int) -> datetime:
        months = self._start.month - 1 + number
        return self._start.replace(year=self._start.year + months // 12, month=months % 12 + 1)

    def _moment(self, after: datetime, before: datetime) -> datetime:
        """A moment between two, to the second."""
        return after + timedelta(seconds=self._random.randrange(max(1, int((before - after).total_seconds()))))

    def _chance(self, of: str) -> bool:
        return self._random.random() < SHARES[of]

    # --- customers ----------------------------------------------------------------------------------------------

    def _everybody(self) -> list[_Customer]:
        made: list[_Customer] = []
        for number in range(1, self.customers + 1):
            made.append(self._customer(number, made))
        return made

    def _customer(self, number: int, earlier: Sequence[_Customer]) -> _Customer:
        draw = self._random
        country = draw.choices(COUNTRIES, [one.weight for one in COUNTRIES])[0]
        language = draw.choices(list(country.languages), list(country.languages.values()))[0]
        names = NAMES[language]
        (first, plain_first), (last, plain_last) = draw.choice(names.first), draw.choice(names.last)
        address = f"{plain_first}.{plain_last}{number}@{draw.choice(('mail.example', 'post.example', 'inbox.example'))}"
        mail = self._mail(address, number, earlier)
        # Half were there when the system began.
        created = self._start if number <= self.customers // 2 else self._moment(self._start, self._end)
        opted_out = self._moment(created, self._end) if self._chance("opted out") else None
        deleted = self._moment(created, self._end) if self._chance("marked as deleted") else None
        ordered = self._moment(created, self._end) if draw.random() < 0.6 else None
        row: Row = {
            "customer_no": number, "given_name": first, "family_name": last, "country": country.code,
            "city": draw.choice(country.cities), "plan": draw.choices(_PLANS, (6, 3, 1))[0], "language": language,
            "age": draw.randrange(18, 90) if draw.random() < 0.9 else None,
            "profile": {"interests": draw.sample(_INTERESTS, draw.randrange(3)), "points": draw.randrange(5000)},
            "opted_out_at": opted_out, "last_order_at": ordered, "created_at": created, "deleted_at": deleted,
            "updated_at": max(one for one in (created, opted_out, deleted, ordered) if one is not None),
        }  # fmt: skip
        is_gone = self._chance("gone")
        moved = self._moment(created, self._end) if mail and self._chance("moved") else None
        mail_now = f"{plain_first}.{number}@new.example" if moved else mail
        return _Customer(row, mail, mail_now, moved, is_gone)

    def _mail(self, address: str, number: int, earlier: Sequence[_Customer]) -> str | None:
        draw = self._random
        if earlier and self._chance("address of another"):
            other = draw.choice(earlier).mail or address
            return other if number % 2 else other.upper()
        if self._chance("no address"):
            return None if number % 2 else ""
        if self._chance("white space"):
            return draw.choice((f"{address}\u00a0", f"\t{address}", f" {address}\r", f"\u200b{address}"))
        if self._chance("no real address"):
            return draw.choice(
                (f"customer{number}", f"{address}@twice", f"a b{number}@mail.example", f"@{number}.example")
            )
        if self._chance("other script"):
            return f"{address.partition('@')[0]}@{draw.choice(('bücher.example', 'москва.example', '例え.example'))}"
        return address

    # --- campaigns and emails -----------------------------------------------------------------------------------

    def _campaign(self, number: int) -> Row:
        draw = self._random
        month = (number - 1) // self.campaigns_per_month
        sent = self._moment(self._month(month) + timedelta(days=1), self._month(month + 1) - timedelta(days=2))
        condition = draw.choice(
            (
                {"field": "country", "op": "in", "value": ["US", "DE", "FR"]},
                {"field": "plan", "op": "in", "value": ["plus", "pro"]},
                {"field": "age", "op": "gte", "value": 40},
                {"field": "country", "op": "eq", "value": "US"},
            )
        )
        owner = draw.randrange(len(_USERS)) + 1
        return {
            "id": number, "user_id": owner, "sender_id": owner, "name": f"Newsletter {number}",
            "subject": draw.choice(_SUBJECTS), "audience": condition, "status": "done",
            "created_at": sent - timedelta(hours=5), "sent_at": sent,
        }  # fmt: skip

    def _emails(self, campaigns: Sequence[Row], everybody: Sequence[_Customer]) -> list[Row]:
        emails: list[Row] = []
        for campaign in campaigns:
            for customer in everybody:
                mail = customer.mailed_at(campaign["sent_at"])
                if mail and _meets(customer.row, campaign["audience"]):
                    times = 2 if self._random.random() < _MAILED_TWICE else 1
                    emails += [self._email(len(emails) + again + 1, campaign, customer, mail) for again in range(times)]
        return emails

    def _email(self, number: int, campaign: Row, customer: _Customer, mail: str) -> Row:
        draw = self._random
        status = draw.choices(list(_STATUSES), list(_STATUSES.values()))[0]
        if "@" not in mail[1:]:
            status = "failed"
        queued = campaign["sent_at"] + timedelta(microseconds=draw.randrange(900_000_000))
        sent = queued + timedelta(microseconds=draw.randrange(60_000_000)) if status in ("sent", "bounced") else None
        updated = queued if status == "queued" else sent or queued + timedelta(seconds=30)
        error = draw.choice(_ERRORS).format(email=mail) if status == "failed" else None
        if status == "bounced":
            updated += timedelta(seconds=draw.randrange(259_200))
            error = "550 5.1.1 user unknown" if draw.random() < 0.7 else "452 4.2.2 mailbox full"
        return {
            "id": number, "campaign_id": campaign["id"], "user_id": campaign["user_id"],
            "lead_id": customer.row["customer_no"], "email": mail,
            "subject": campaign["subject"].replace("{{ first_name }}", customer.row["given_name"]), "status": status,
            "provider_message_id": str(UUID(int=draw.getrandbits(128))) if sent else None, "error": error,
            "sent_at": sent, "created_at": queued, "updated_at": updated,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Customer:
    """A customer over time.

    Attributes:
        row: as the table has it, without the address.
        mail, mail_now: the address before and after they moved.
        is_gone: the row was deleted; their emails stay.
    """

    row: Row
    mail: str | None
    mail_now: str | None
    moved_at: datetime | None
    is_gone: bool

    def mailed_at(self, moment: datetime) -> str | None:
        """The address that the old system mails at this moment; None where it mails nobody."""
        ends = (self.row["opted_out_at"], self.row["deleted_at"])
        if self.row["created_at"] > moment or any(end is not None and end <= moment for end in ends):
            return None
        return self.mail if self.moved_at is None or moment < self.moved_at else self.mail_now


def _meets(row: Row, condition: Row) -> bool:
    value, wanted = row[condition["field"]], condition["value"]
    match condition["op"]:
        case "in":
            return value in wanted
        case "gte":
            return value is not None and value >= wanted
        case _:
            return bool(value == wanted)


def _numbered(pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[int, tuple[str, str]]]:
    return list(enumerate(pairs, start=1))
