"""A real HTTP server that behaves like a bulk email provider, so that tests and demos have a ground truth.

The invariant it protects: an answer that says *accepted* leaves the process only after the acceptance is
on disk, and nothing else ever is in the accepted log. However a fault changes the answer, the log is correct.

Start it with ``python -m email_platform.local.provider_simulator``; read its log with `AcceptedLog`.
"""

from email_platform.local.provider_simulator.accepted_log import AcceptedLog, AcceptedRow, AcceptedSummary

__all__ = ["AcceptedLog", "AcceptedRow", "AcceptedSummary"]
