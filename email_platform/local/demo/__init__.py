"""The demonstration: realistic leads and campaigns, and what the terminal shows of their run.

Invariant: no address of the demo can belong to a person; all are under domains reserved by RFC 2606 or at
the SES mailbox simulator.
"""
