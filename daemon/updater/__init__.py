"""Signed updates with automatic roll-back (not built yet)."""
