"""The domain of email campaign delivery: campaigns, audiences, the call ledger, delivery and their accounting."""
