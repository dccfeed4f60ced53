"""A resolved section as dotted keys and values, and which of them are live; pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from daemon.config.keys import Field, fields_of


def walk(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every key below a section that holds a value, dotted; lists of sections count as one value."""
    for field in fields_of(struct):
        key = prefix + field.name
        if field.struct is not None and field.default is not None and not _is_list(field):
            yield from walk(field.struct, key + ".")
        else:
            yield key, field


def flatten(section: msgspec.Struct, prefix: str = "") -> dict[str, Any]:
    """Every key of a section with its value, dotted."""
    return {prefix + key: get(section, key) for key, _ in walk(type(section))}


def get(section: msgspec.Struct, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = section
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _is_list(field: Field) -> bool:
    return isinstance(field.default, tuple)
