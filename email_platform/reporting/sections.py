"""The parts that a campaign's report and the overview share."""

from __future__ import annotations

import pandas as pd

from email_platform.reporting import charts
from email_platform.reporting.page import Section, Table, count, share, text

_PROBLEMS = {
    "bounced_hard": "hard bounce",
    "bounced_soft": "soft bounce",
    "blocked": "blocked",
    "rejected": "rejected",
    "rejected_later": "rejected later",
}
OTHERS = "all others"


def domains_section(domains: pd.DataFrame) -> Section:
    """Recipients by the domain of their address."""
    names = [OTHERS if pd.isna(name) else (name or "(none)") for name in domains["recipient_domain"]]
    tried = domains[["accepted", "rejected", "unknown", "abandoned"]].sum(axis=1)
    refused = domains[["bounced_hard", "bounced_soft", "blocked", "rejected", "rejected_later"]].sum(axis=1)
    rows = [
        [
            text(name), count(all_of_it), count(row.delivered), share(row.delivered, all_of_it), count(wrong),
            share(wrong, all_of_it), count(row.opened), share(row.opened, row.delivered), count(row.complained),
        ]
        for name, all_of_it, wrong, row in zip(names, tried, refused, domains.itertuples(), strict=True)
    ]  # fmt: skip
    headings = (
        *("domain", "recipients", "delivered", "of them", "did not arrive", "of them"),
        *("opened", "of delivered", "complained"),
    )
    return Section(
        "domains",
        "Recipient domains",
        "What follows the @ of the addresses, the domains with the most recipients first.",
        charts.bars("chart-domains", "Recipients by domain", names, [int(one) for one in tried]),
        Table(headings, rows),
    )


def reasons_section(reasons: pd.DataFrame) -> Section:
    """Why messages did not arrive."""
    names, rows = [], []
    total = int(reasons["recipients"].sum())
    for row in reasons.itertuples():
        if pd.isna(row.problem):
            names.append(OTHERS)
            rows.append([OTHERS, "-", "-", count(row.recipients), share(row.recipients, total)])
            continue
        problem = _PROBLEMS.get(str(row.problem), str(row.problem))
        kind = str(row.reason_class).replace("_", " ")
        names.append(f"{problem}: {kind} {row.reason_code}".rstrip())
        rows.append([problem, text(kind), text(row.reason_code), count(row.recipients), share(row.recipients, total)])
    return Section(
        "reasons",
        "Why messages did not arrive",
        "By the last word of each message. The code is the enhanced status code (RFC 3463) in the reason, else the "
        "provider's own.",
        charts.bars("chart-reasons", "Recipients by reason", names, [int(one) for one in reasons["recipients"]]),
        Table(("problem", "kind", "code", "recipients", "share"), rows, texts=3),
    )
