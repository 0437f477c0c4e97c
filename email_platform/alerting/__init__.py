"""Calls an operator when something needs one: what is worth a call, what it says, and when it is over."""
