"""The tree of a file against the schema: what was written, as plain data, and every fault of it.

The result holds only what the file says, converted (seconds, bytes, absolute paths) and without the
faulty values. Defaults and precedence are :mod:`daemon.config.resolve`'s; keys that depend on each
other are :mod:`daemon.config.rules`'.
"""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from daemon.config.fault import FaultSink
from daemon.config.keys import Field, Kind, written_fields
from daemon.config.scalars import has_bad_characters, read_any, read_scalar, shown, trap
from daemon.config.secrets import smells
from daemon.config.tree import Mapping, Node, Scalar, Sequence

MAX_SHOWN_KEY = 100
"""Characters of a strange key that go into a path."""

_SIMPLE_KEY = re.compile(r"[A-Za-z0-9_-]{1,100}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH_KINDS = (Kind.PATH, Kind.BINARY)
_LISTS = (Kind.LIST, Kind.COMMAND)
_MAPS = (Kind.MAP, Kind.OPTIONS)


class _Missing:
    """Stands for "not written, or written wrongly"."""


_MISSING = _Missing()


def join(path: str, key: str) -> str:
    """The path of a key below ``path``."""
    if _SIMPLE_KEY.fullmatch(key):
        return f"{path}.{key}" if path else key
    return f"{path}[{json.dumps(key[:MAX_SHOWN_KEY])}]"


class Reader:
    """Reads one tree.

    Args:
        sink: takes the faults, and the position of every key read.
        base: the directory relative paths are relative to; absolute.
        schema: what the file may say.
        ignored: sections that are passed over unread.
    """

    def __init__(
        self, sink: FaultSink, base: Path, schema: type[msgspec.Struct], ignored: Collection[str] = ()
    ) -> None:
        self._sink = sink
        self._schema = schema
        self._ignored = ignored
        self._base = base

    def document(self, root: Node | None, least: str) -> dict[str, Any]:
        """What the file says, section by section; ``least`` is what an empty one is told to say."""
        if root is None or (isinstance(root, Scalar) and root.tag == "null"):
            message = f"the file says nothing, or was not written to its end; write at least {least}"
            self._sink.add((1, 1), "", message)
            return {}
        return self._section(root, self._schema, "")

    def _section(self, node: Node, struct: type[msgspec.Struct], path: str) -> dict[str, Any]:
        if not isinstance(node, Mapping):
            self._wrong_shape(node, path, "a mapping of keys")
            return {}
        fields = written_fields(struct)
        found: dict[str, Any] = {}
        named: set[str] = set()
        for name, key, value in self._entries(node, path):
            field = fields.get(name)
            if field is None:
                message = "unknown key" if self._sink.full else self._unknown(key, name, path, struct)
                self._sink.add(key.position, join(path, name), message)
                continue
            named.add(name)
            read = self._value(value, field, join(path, name))
            if read is not _MISSING:
                found[name] = read
        for field in fields.values():
            if field.required and field.name not in named:
                self._sink.add(node.position, join(path, field.name), "is missing; it has no default")
        return found

    def _entries(self, node: Mapping, path: str) -> list[tuple[str, Scalar, Node]]:
        """The entries with a text key, each once; doubles and other keys become faults."""
        first: dict[str, int] = {}
        good: list[tuple[str, Scalar, Node]] = []
        for written, (key, value) in (*((True, e) for e in node.entries), *((False, e) for e in node.merged)):
            if not isinstance(key, Scalar):
                self._sink.add(key.position, path, "a key must be a word, not a list or a mapping")
                continue
            name = key.text
            if has_bad_characters(name):
                self._sink.add(key.position, path, "a key contains a character that cannot be stored")
                continue
            if name in first:
                if written:
                    message = f"is written twice; the first one is in line {first[name]}"
                    self._sink.add(key.position, join(path, name), message)
                continue
            first[name] = key.position[0]
            good.append((name, key, value))
        return good

    def _value(self, node: Node, field: Field, path: str) -> Any:
        """The value of one key, or ``_MISSING`` after a fault, or where nothing is written."""
        self._sink.positions[path] = node.position
        if path in self._ignored:
            return _MISSING
        empty = isinstance(node, Scalar) and node.tag == "null"
        if empty and (field.key.nullable or field.kind in (Kind.SECTION, Kind.SECTIONS, *_LISTS, *_MAPS)):
            return _MISSING  # `agents:` with every entry commented out
        if field.kind is Kind.SECTION:
            if field.default is None and isinstance(node, Mapping) and not (node.entries or node.merged):
                return _MISSING  # an optional section, written as {}
            assert field.struct is not None
            return self._section(node, field.struct, path)
        if field.kind is Kind.SECTIONS:
            return self._sections(node, field, path)
        if field.kind in _LISTS:
            return self._list(node, field, path)
        if field.kind is Kind.MAP:
            return self._map(node, field, path)
        if field.kind is Kind.OPTIONS:
            return self._options(node, path)
        return self._scalar(node, field, field.kind, path)

    def _sections(self, node: Node, field: Field, path: str) -> Any:
        if not isinstance(node, Sequence):
            return self._wrong_shape(node, path, "a list (each entry begins with a dash)")
        assert field.struct is not None
        found = []
        for index, item in enumerate(node.items):
            self._sink.positions[f"{path}[{index}]"] = item.position
            found.append(self._section(item, field.struct, f"{path}[{index}]"))
        return found

    def _list(self, node: Node, field: Field, path: str) -> Any:
        if not isinstance(node, Sequence):
            return self._wrong_shape(node, path, "a list, such as [one, two]")
        found = []
        for index, item in enumerate(node.items):
            at = f"{path}[{index}]"
            self._sink.positions[at] = item.position
            first_word = field.kind is Kind.COMMAND and index == 0
            kind = Kind.BINARY if first_word else field.item
            if first_word and isinstance(item, Scalar) and item.text == "{binary_path}":
                kind = Kind.WORD
            value = self._scalar(item, field, kind, at)
            if value == "" and kind is not Kind.WORD:
                self._sink.add(item.position, at, "must not be empty")
            elif value is not _MISSING:
                found.append(value)
        if field.required and not node.items:
            self._sink.add(node.position, path, "must not be empty")
            return _MISSING
        return found

    def _map(self, node: Node, field: Field, path: str) -> Any:
        if not isinstance(node, Mapping):
            return self._wrong_shape(node, path, "a mapping of names to text")
        found = {}
        for name, key, value in self._entries(node, path):
            at = join(path, name)
            self._sink.positions[at] = value.position
            if key.tag not in ("str", "value"):
                self._sink.add(key.position, at, f"{trap(key)}; put the name in quotes")
            elif field.name == "env" and _ENV_NAME.fullmatch(name) is None:
                message = f"{shown(name)} cannot name a variable; use letters, digits and underscores"
                self._sink.add(key.position, at, message)
            else:
                read = self._scalar(value, field, field.item, at)
                if read is not _MISSING:
                    found[name] = read
        return found

    def _options(self, node: Node, path: str) -> Any:
        if not isinstance(node, Mapping):
            return self._wrong_shape(node, path, "a mapping of plug-in names to their options")
        found: dict[str, Any] = {}
        for name, _key, value in self._entries(node, path):
            at = join(path, name)
            self._sink.positions[at] = value.position
            if isinstance(value, Scalar) and value.tag == "null":
                found[name] = {}
            elif isinstance(value, Mapping):
                found[name] = self._free(value, at)
            else:
                self._wrong_shape(value, at, "a mapping of options")
        return found

    def _free(self, node: Node, path: str) -> Any:
        """Anything JSON could hold; the tree's own bounds limit the depth and the size."""
        if isinstance(node, Mapping):
            found: dict[str, Any] = {}
            for name, key, value in self._entries(node, path):
                if key.tag not in ("str", "value"):
                    self._sink.add(key.position, join(path, name), f"{trap(key)}; put the name in quotes")
                else:
                    found[name] = self._free(value, join(path, name))
            return found
        if isinstance(node, Sequence):
            return [self._free(item, f"{path}[{index}]") for index, item in enumerate(node.items)]
        assert isinstance(node, Scalar)
        try:
            return read_any(node)
        except ValueError as e:
            self._refuse(node, path, str(e))
            return None

    def _scalar(self, node: Node, field: Field, kind: Kind, path: str) -> Any:
        if not isinstance(node, Scalar):
            return self._wrong_shape(node, path, "a single value")
        try:
            value = read_scalar(node, field, kind)
        except ValueError as e:
            self._refuse(node, path, str(e))
            return _MISSING
        if kind in _PATH_KINDS and value and (kind is Kind.PATH or "/" in value):
            return os.path.normpath(self._base / value)
        return value

    def _refuse(self, node: Scalar, path: str, message: str) -> None:
        """A scalar that will not do; the message quotes it, unless the key's name says that it is secret."""
        name = _last_name(path)
        if smells(name):
            message = "must be a URL" if name == "webhook" else "will not do; put it in quotes"
            message += " (what is written is not shown: it may be a secret)"
        self._sink.add(node.position, path, message)

    def _wrong_shape(self, node: Node, path: str, wanted: str) -> _Missing:
        match node:
            case Mapping():
                got = "a mapping"
            case Sequence():
                got = "a list"
            case Scalar(tag="null"):
                got = "nothing"
            case Scalar():
                got = shown(node.text) if not smells(_last_name(path)) else "a single value"
        self._sink.add(node.position, path, f"must be {wanted}, not {got}")
        return _MISSING

    def _unknown(self, key: Scalar, name: str, path: str, struct: type[msgspec.Struct]) -> str:
        """Why a key is refused, with the nearest key there is."""
        if key.tag not in ("str", "value"):
            return f"unknown key; {trap(key)}"
        names = list(written_fields(struct))
        import difflib  # only a file with a fault needs it

        near = difflib.get_close_matches(name.lower().replace("-", "_")[:64], names, n=1, cutoff=0.6)
        if near:
            return f"unknown key; did you mean {near[0]}?"
        homes = [home for home in _homes(self._schema).get(name, ()) if home != path]
        if homes:
            return f"unknown key here; it belongs in {homes[0]}"
        return "unknown key; known here: " + ", ".join(names)


@cache
def _homes(schema: type[msgspec.Struct]) -> dict[str, list[str]]:
    """The sections each key of the schema is at home in, by key."""
    homes: dict[str, list[str]] = {}

    def visit(struct: type[msgspec.Struct], path: str) -> None:
        for field in written_fields(struct).values():
            homes.setdefault(field.name, []).append(path or "the top level")
            if field.struct is not None:
                visit(field.struct, join(path, field.name) + ("[]" if field.kind is Kind.SECTIONS else ""))

    visit(schema, "")
    return homes


def _last_name(path: str) -> str:
    """The name a path ends with: ``agents[2].env["DB.KEY"]`` -> ``DB.KEY``, ``update.allowed_urls[0]`` ->
    ``allowed_urls``."""
    if path.endswith('"]'):
        return path[path.rindex('["') + 2 : -2]
    return path.rpartition(".")[2].partition("[")[0]
