"""What everything else speaks of: campaigns, manifests, identities, addresses, where objects live, and the ports."""
