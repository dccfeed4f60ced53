"""What a streaming GET answers, and where its body goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The head of an answer.

    Attributes:
        status: HTTP's.
        headers: by lower-case name; of several of one name, all, with commas between (RFC 9110, 5.2).
        length: of the body in bytes, as the server says; None where it does not.
    """

    status: int
    headers: Mapping[str, str]
    length: int | None


class Sink(Protocol):
    """Takes one answer. Nothing is read from the network while it is at work."""

    async def begin(self, answer: Answer) -> bool:
        """Looks at the head, of every answer but redirections.

        Returns:
            whether the body is wanted; without it the connection is closed.
        """
        ...

    async def write(self, piece: bytes) -> None:
        """Takes the next piece of the body; whatever it raises ends the request."""
        ...
