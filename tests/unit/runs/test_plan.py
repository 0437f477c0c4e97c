"""How long a campaign takes, from the account's rate and the campaigns before it."""

from __future__ import annotations

import pytest

from email_platform.runs.campaign_state import AccountUse
from email_platform.runs.plan import longest_seconds, seconds_at_rate


@pytest.mark.parametrize(
    ("account", "alone", "longest"),
    [
        (AccountUse("a"), None, None),
        (AccountUse("a", recipients_per_second=10.0), 100.0, 100.0),
        (AccountUse("a", recipients_per_second=10.0, calls_per_second=0.1), 200.0, 200.0),
        (AccountUse("a", recipients_per_second=10.0, share=0.5), 200.0, 200.0),
        # A small one before it is soon done; a large one leaves it half of the rate.
        (AccountUse("a", recipients_per_second=10.0, campaigns_before=1, recipients_before=50), 100.0, 105.0),
        (AccountUse("a", recipients_per_second=10.0, campaigns_before=1, recipients_before=10**6), 100.0, 200.0),
        (
            AccountUse("a", recipients_per_second=10.0, campaigns_before=2, recipients_before=50, uncounted_before=1),
            100.0,
            300.0,
        ),
    ],
)
def test_the_time_of_1000_recipients_in_20_calls(
    account: AccountUse, alone: float | None, longest: float | None
) -> None:
    assert seconds_at_rate(account, 1000, 20) == alone
    assert longest_seconds(account, alone, 50) == longest
