"""Dagster resources: each turns the one `Settings` into an adapter of the domain; no credential is in its config."""
