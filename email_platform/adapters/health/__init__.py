"""Whether the platform works now: its parts, its processes, its backlog and this machine, one line each."""
