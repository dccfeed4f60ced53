"""Resource history and alerts of agents (not built yet)."""
