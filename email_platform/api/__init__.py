"""The HTTP API for the existing application: thin over `email_platform.runs` and the adapters."""
