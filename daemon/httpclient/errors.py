"""What a request fails with."""

from __future__ import annotations


class HttpError(Exception):
    """No answer came; the text says why, for an operator."""
