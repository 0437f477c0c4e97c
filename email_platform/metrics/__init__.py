"""What Prometheus reads: each figure is asked of PostgreSQL, the bucket and Dagster when a scrape comes.

Invariant: a scrape changes nothing, costs the same however many campaigns are past, and answers when a part is away.
"""
