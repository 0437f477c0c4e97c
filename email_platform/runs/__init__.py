"""One module per step that assets, the command line and other callers run."""
