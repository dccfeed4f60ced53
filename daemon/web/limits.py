"""Bounds of what may be asked for, which the routes hold and their description tells."""

from __future__ import annotations

EVENTS_LIMIT = 100  # events of a list, where none is said
EVENTS_LIMIT_MAX = 1000
