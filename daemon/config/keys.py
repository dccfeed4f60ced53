"""What is said of a configuration key beside its type, and the table of keys read back from a Struct.

:mod:`daemon.config.schema` annotates every field with a :class:`Key`; the reader, the JSON schema, the
diff and the documentation's test all work from :func:`fields_of`, so no key is described twice.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from typing import Any

import msgspec


class Kind(Enum):
    """How a written value is read."""

    TEXT = "text"
    WORD = "word"  # text where a whole number may stand unquoted, such as a port in `env`
    BOOL = "bool"
    INT = "int"
    NUMBER = "number"
    DURATION = "duration"
    SIZE = "size"
    CHOICE = "choice"
    PATH = "path"  # relative: to the directory of the configuration file
    BINARY = "binary"  # a path, or a bare name to look up
    MOUNT = "mount"  # an absolute path of the host
    URL = "url"
    HOST = "host"
    ADDRESS = "address"  # host:port
    OCTAL = "octal"
    SIGNAL = "signal"
    SECTION = "section"
    SECTIONS = "sections"
    LIST = "list"
    COMMAND = "command"  # a list of words, the first one a BINARY
    MAP = "map"
    OPTIONS = "options"  # name -> mapping of anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The annotation of one field.

    Attributes:
        about: one line for editors.
        kind: where the type alone does not tell it; of the items, for a list or a map.
        gt: the value must be greater.
        ge: the value must be at least this.
        le: the value must be at most this.
        pattern: text must match it in full.
        expects: the pattern in words, for the message.
        live: a reload applies the key without restarting its agent (or, in ``daemon``, the daemon).
        nullable: ``null`` may be written and means "not written".
        derived: computed, never written.
    """

    about: str = ""
    kind: Kind | None = None
    gt: float | None = None
    ge: float | None = None
    le: float | None = None
    pattern: str = ""
    expects: str = ""
    live: bool = False
    nullable: bool = False
    derived: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One key of one section.

    Attributes:
        kind: how the value is read; for LIST and MAP ``item`` tells of the items.
        default: the built-in default; ``msgspec.NODEFAULT`` for a required key.
        struct: the section's type, for SECTION and SECTIONS.
        choices: the permitted texts, for CHOICE.
    """

    name: str
    kind: Kind
    key: Key
    default: Any
    item: Kind = Kind.TEXT
    struct: type[msgspec.Struct] | None = None
    choices: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        """Whether the file must write it."""
        return self.default is msgspec.NODEFAULT


@cache
def fields_of(struct: type[msgspec.Struct]) -> tuple[Field, ...]:
    """The keys of a section, in order."""
    hints = typing.get_type_hints(struct, include_extras=True)
    found = msgspec.structs.fields(struct)
    return tuple(_field(info.name, hints[info.name], _default(info)) for info in found)


@cache
def written_fields(struct: type[msgspec.Struct]) -> dict[str, Field]:
    """The keys a file may write in a section, by name."""
    return {field.name: field for field in fields_of(struct) if not field.key.derived}


def _default(found: msgspec.structs.FieldInfo) -> Any:
    """The default; a mapping's stands behind a factory."""
    factory = found.default_factory
    return found.default if factory is msgspec.NODEFAULT else factory()


def _field(name: str, hint: Any, default: Any) -> Field:
    key, bare = _unwrap(hint)
    field = Field(name=name, kind=key.kind or Kind.TEXT, key=key, default=default)
    origin = typing.get_origin(bare)
    if origin in (typing.Union, types.UnionType):  # `X | None`: the section is optional
        bare = next(part for part in typing.get_args(bare) if part is not type(None))
        origin = typing.get_origin(bare)
    if origin is tuple:
        item_key, item = _unwrap(typing.get_args(bare)[0])
        if isinstance(item, type) and issubclass(item, msgspec.Struct):
            return replace(field, kind=Kind.SECTIONS, struct=item)
        if key.kind is Kind.COMMAND:
            return replace(field, kind=Kind.COMMAND, item=Kind.WORD)
        return replace(field, kind=Kind.LIST, item=key.kind or item_key.kind or Kind.TEXT)
    if origin is not None:
        kind = Kind.OPTIONS if key.kind is Kind.OPTIONS else Kind.MAP
        return replace(field, kind=kind, item=Kind.WORD)
    if issubclass(bare, msgspec.Struct):
        return replace(field, kind=Kind.SECTION, struct=bare)
    if issubclass(bare, Enum):
        return replace(field, kind=Kind.CHOICE, choices=tuple(member.value for member in bare))
    if key.kind is not None:
        return field
    return replace(field, kind={bool: Kind.BOOL, int: Kind.INT, float: Kind.NUMBER}.get(bare, Kind.TEXT))


def _unwrap(hint: Any) -> tuple[Key, Any]:
    """The Key (an empty one where none is written) and the type of a possibly annotated hint."""
    if typing.get_origin(hint) is not typing.Annotated:
        return Key(), hint
    bare, *notes = typing.get_args(hint)
    return next((note for note in notes if isinstance(note, Key)), Key()), bare
