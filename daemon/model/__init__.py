"""Frozen values that every floor shares; no behaviour beyond validating themselves."""
