"""Health checks of agents (not built yet)."""
