"""The command line `email-platform`, one module per noun; `app` puts them together."""
