"""The one list of alerts (not built yet)."""
