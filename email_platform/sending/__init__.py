"""One chunk's way to the provider: the call ledger, the delivery loop, rates, retries and what events prove."""
