"""What a request fails with."""

from __future__ import annotations


class HttpError(Exception):
    """No answer came, or none that serves; the text says why, for an operator.

    Args:
        text: why.
        final: another attempt would end the same way until somebody changes something.
    """

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.final = final
