"""From templates to messages: the sandbox, its analysis, the checks before sending, and the unsubscribe links."""
