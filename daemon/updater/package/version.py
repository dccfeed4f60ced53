"""The order of versions, as agents, Debian and Maven write them: which of two is the newer one.

One total order for all of them, so that a downgrade is seen whatever the maker's habit:

- any number of numeric parts; a missing one counts as zero (``1.0`` is ``1.0.0``);
- an epoch (``1:2.0``, Debian) before everything else; a leading ``v`` means nothing;
- behind the numbers ``~`` sorts before ``-``, and both before nothing: ``1.0~rc1 < 1.0-rc.1 < 1.0``;
- after ``-`` the pre-release rules of SemVer 2.0.0 (section 11), ``-SNAPSHOT`` among them;
- after a ``~`` the rules of Debian (deb-version(7)): letters before other characters, digits by their value;
- ``+`` and what follows says how it was built and has no part in the order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from daemon.errors import UpdateVerifyError

LENGTH_MAX = 128
_SHAPE = re.compile(
    r"(?:(?P<epoch>[0-9]+):)?[vV]?(?P<numbers>[0-9]+(?:\.[0-9]+)*)"
    r"(?P<rest>[-~][0-9A-Za-z.~-]*)?(?P<build>\+[0-9A-Za-z.+~-]+)?"
)
_TILDE, _DASH, _END = 0, 1, 2  # what follows the numbers, or a part: the order of the three is the rule
_SHOWN_MAX = 40

_Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version; compared, equal and hashed by its place in the order.

    Attributes:
        text: as it was written. Free of ``/``, of white space and of control characters, and never ``..``:
            fit to name a folder.
    """

    _key: _Key = field(repr=False)
    text: str = field(compare=False)

    @classmethod
    def parse(cls, text: str) -> Version:
        """Reads a version.

        Args:
            text: at most 128 ASCII characters: ``1.2.3``, ``v8.11.3``, ``1:2.0~rc1``, ``1.0.0-rc.1+7``.

        Raises:
            UpdateVerifyError: D4002, it is none.
        """
        found = _SHAPE.fullmatch(text) if len(text) <= LENGTH_MAX else None
        rest = _rest_key(found["rest"] or "") if found is not None else None
        if found is None or rest is None:
            shown = text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."
            raise UpdateVerifyError(
                f"{shown!r} is no version; write numbers with dots between them, such as 1.2.3, 1.2.3-rc.1 "
                f"or 1:2.0~rc1, with at most {LENGTH_MAX} characters"
            )
        numbers = [int(part) for part in found["numbers"].split(".")]
        while len(numbers) > 1 and not numbers[-1]:
            numbers.pop()
        return cls((int(found["epoch"] or 0), tuple(numbers), rest), text)

    @property
    def plain(self) -> str:
        """The text without the ``v``: two that are the same build have the same one."""
        return re.sub(r"^([0-9]+:)?[vV]", r"\1", self.text)

    def __str__(self) -> str:
        return self.text


def is_version(text: str) -> bool:
    """Whether a text can be compared as a version."""
    try:
        Version.parse(text)
    except UpdateVerifyError:
        return False
    return True


def newer(a: str, b: str) -> bool:
    """Whether version ``a`` comes after ``b``.

    Raises:
        UpdateVerifyError: D4002, one of them is no version.
    """
    return Version.parse(a) > Version.parse(b)


def _rest_key(rest: str) -> _Key | None:
    """The key of what follows the numbers; None when it is not well formed."""
    if not rest:
        return (_END,)
    first, *parts = rest.split("~")
    key: list[Any] = []
    if first:  # it begins with the dash: SemVer up to the first tilde
        identifiers = first[1:].split(".")
        if not all(identifiers):
            return None
        key += [_DASH, tuple(_identifier(each) for each in identifiers)]
    for part in parts:
        key += [_TILDE, _debian(part)]
    return (*key, _END)


def _identifier(text: str) -> tuple[int, int, str]:
    """SemVer: numeric identifiers by value and before the others, which go by ASCII."""
    return (0, int(text), "") if text.isdigit() else (1, 0, text)


def _debian(text: str) -> _Key:
    """Words and numbers in turn; in words letters come before everything else, and the end before both."""
    pairs = [
        (tuple((not c.isalpha(), c) for c in word), int(number or 0))
        for word, number in re.findall(r"([^0-9]*)([0-9]*)", text)
    ]
    while pairs and pairs[-1] == ((), 0):
        pairs.pop()
    return tuple(pairs)
