"""Rotation, tail, follow and search of agents' logs (not built yet)."""
