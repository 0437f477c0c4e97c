"""Thin assets and ops: read what to do, call one domain function, return its result with metadata."""
