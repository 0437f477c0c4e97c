"""The embedded object store."""
