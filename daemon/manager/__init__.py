"""The reference Manager (not built yet)."""
