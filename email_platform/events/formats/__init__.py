"""How each provider writes its events; one module per provider, each with `split` and `normalise`."""
