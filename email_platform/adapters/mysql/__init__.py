"""Somebody else's MySQL or MariaDB, which is only ever read."""
