"""From a JSON condition over `lead` to the frozen manifest."""
