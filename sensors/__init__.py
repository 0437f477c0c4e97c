"""Thin sensors over pure functions; each is named after the condition that it waits for."""
