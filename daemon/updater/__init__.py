"""Signed updates with automatic roll-back (not wired yet)."""
