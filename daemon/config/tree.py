"""YAML text to a tree of nodes that remember their line and column.

The tree is built from PyYAML's events instead of its nodes: that costs a little code and buys bounds.
Depth, the number of nodes and what aliases expand to are limited while reading, so that neither
``[[[[...`` nor a "billion laughs" file takes the daemon's stack or memory; nothing here recurses. Only
plain data is accepted: a tag such as ``!!python/object`` is refused, as ``SafeLoader`` would.

Scalars keep their text and the type YAML 1.1 gives it. What to make of it is decided by
:mod:`daemon.config.scalars`, which knows what each key wants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.reader import Reader
from yaml.resolver import Resolver

from daemon.config.fault import Position

MAX_DEPTH = 32
"""Nesting; the deepest key of ours is at 5, plug-in options may go further."""
MAX_NODES = 250_000
"""Nodes of a file, aliases expanded; a thousand agents with every key written need 100 000."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_SEQUENCE_TAGS = (None, "!", _TAG + "seq")
_MAPPING_TAGS = (None, "!", _TAG + "map")
_IMPLICIT: dict[str | None, list[tuple[str, re.Pattern[str]]]] = Resolver.yaml_implicit_resolvers


class YamlError(Exception):
    """The text is not YAML, or not the plain data a configuration may hold."""

    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What all nodes have.

    Attributes:
        position: line and column, from 1; of the anchored node where an alias stands for it.
        weight: nodes in it, aliases expanded.
        height: levels in it, 1 for a scalar.
    """

    position: Position
    weight: int = 1
    height: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar(Node):
    """A leaf.

    Attributes:
        text: the characters, quotes and escapes resolved.
        tag: what YAML 1.1 makes of it: ``str int float bool null timestamp merge value``.
    """

    text: str
    tag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence(Node):
    """A list."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping(Node):
    """A mapping; ``entries`` as written, doubles included; ``merged`` what ``<<`` adds to them."""

    entries: tuple[tuple[Node, Node], ...]
    merged: tuple[tuple[Node, Node], ...] = ()


@dataclass(slots=True, kw_only=True)
class _Open:
    """A list or mapping whose end has not been read."""

    position: Position
    mapping: bool
    anchor: str | None
    children: list[Node] = field(default_factory=list)


def parse(text: str) -> Node | None:
    """The tree of the one document in ``text``; None when there is none.

    Raises:
        YamlError: a syntax fault, a second document, a tag, an unknown or endless alias, or too much.
    """
    bad = Reader.NON_PRINTABLE.search(text)
    if bad is not None:
        before = text[: bad.start()]
        position = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise YamlError(position, f"the character U+{ord(bad.group()):04X} is not permitted in YAML")
    try:
        return _Builder().build(text)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        position = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        message = " ".join(filter(None, (e.context, e.problem))) or "not YAML"
        if "nesting depth" in message:  # libyaml's own limit, met before ours
            message = f"nested deeper than {MAX_DEPTH} levels"
        raise YamlError(position, message + _hint(text, position)) from e
    except yaml.YAMLError as e:
        raise YamlError((1, 1), f"not YAML: {e}") from e


def _hint(text: str, position: Position) -> str:
    """What most often stands behind a syntax fault."""
    lines = text.splitlines()
    line = lines[position[0] - 1] if position[0] <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "; indentation is made of spaces, never of tabs"
    return ""


class _Builder:
    """Turns the events of one text into one tree."""

    def __init__(self) -> None:
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._root: Node | None = None
        self._documents = 0
        self._nodes = 0

    def build(self, text: str) -> Node | None:
        for event in yaml.parse(text, Loader=_LOADER):
            mark: Any = event.start_mark
            self._event(event, (mark.line + 1, mark.column + 1))
        return self._root

    def _event(self, event: Any, position: Position) -> None:
        match event:
            case yaml.ScalarEvent():
                tag = _tag(event, position)
                self._close(Scalar(position=position, text=event.value, tag=tag), event.anchor)
            case yaml.AliasEvent():
                self._alias(event.anchor, position)
            case yaml.SequenceStartEvent():
                self._open(event, position, _SEQUENCE_TAGS, mapping=False)
            case yaml.MappingStartEvent():
                self._open(event, position, _MAPPING_TAGS, mapping=True)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._finish(self._stack.pop())
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    message = "a second document begins here; a configuration is one document"
                    raise YamlError(position, message)

    def _open(self, event: Any, position: Position, tags: tuple[str | None, ...], *, mapping: bool) -> None:
        if event.tag not in tags:
            raise YamlError(position, _refused(event.tag))
        if event.anchor is not None:
            self._anchors.pop(event.anchor, None)  # an alias inside would mean this very node
        self._stack.append(_Open(position=position, mapping=mapping, anchor=event.anchor))
        if len(self._stack) > MAX_DEPTH:
            raise YamlError(position, f"nested deeper than {MAX_DEPTH} levels")

    def _alias(self, anchor: str | None, position: Position) -> None:
        node = self._anchors.get(anchor) if anchor is not None else None
        if node is None:
            if any(part.anchor == anchor for part in self._stack):
                raise YamlError(position, f"*{anchor} stands inside what it refers to")
            raise YamlError(position, f"*{anchor} refers to nothing; define &{anchor} above it")
        if len(self._stack) + node.height > MAX_DEPTH:
            raise YamlError(position, f"nested deeper than {MAX_DEPTH} levels")
        self._close(node, None)

    def _finish(self, done: _Open) -> None:
        children = done.children
        height = 1 + max((child.height for child in children), default=0)
        weight = 1 + sum(child.weight for child in children)
        if weight > MAX_NODES:
            raise YamlError(done.position, f"comes to more than {MAX_NODES} values with its aliases expanded")
        node: Node
        if done.mapping:
            pairs = list(zip(children[::2], children[1::2], strict=True))
            entries = tuple(pair for pair in pairs if not _is_merge(pair[0]))
            merged = _merged(entries, [value for key, value in pairs if _is_merge(key)])
            node = Mapping(
                position=done.position, weight=weight, height=height, entries=entries, merged=merged
            )
        else:
            node = Sequence(position=done.position, weight=weight, height=height, items=tuple(children))
        self._close(node, done.anchor)

    def _close(self, node: Node, anchor: str | None) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise YamlError(node.position, f"more than {MAX_NODES} values")
        if anchor is not None:
            self._anchors[anchor] = node
        if self._stack:
            self._stack[-1].children.append(node)
        else:
            self._root = node


def _tag(event: yaml.ScalarEvent, position: Position) -> str:
    """The YAML 1.1 type of a scalar."""
    if event.tag in ("!", _TAG + "str"):
        return "str"
    if event.tag is not None:
        raise YamlError(position, _refused(event.tag))
    if not event.implicit[0]:  # quoted, or a block
        return "str"
    text: str = event.value
    for tag, pattern in (*_IMPLICIT.get(text[:1], ()), *_IMPLICIT.get(None, ())):
        if pattern.match(text):
            return str(tag).removeprefix(_TAG)
    return "str"


def _refused(tag: str) -> str:
    name = "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag
    return f"the tag {name[:80]} is refused: a configuration is plain data; leave the tag out"


def _is_merge(key: Node) -> bool:
    return isinstance(key, Scalar) and key.tag == "merge"


def _merged(entries: tuple[tuple[Node, Node], ...], values: list[Node]) -> tuple[tuple[Node, Node], ...]:
    """What ``<<`` adds: the entries of the mappings it names, the written keys and earlier ones first."""
    seen = {(key.tag, key.text) for key, _ in entries if isinstance(key, Scalar)}
    added: list[tuple[Node, Node]] = []
    sources: list[Node] = []
    for value in values:
        sources.extend(value.items if isinstance(value, Sequence) else (value,))
    for source in sources:
        if not isinstance(source, Mapping):
            raise YamlError(source.position, "<< needs a mapping or a list of mappings, such as <<: *name")
        for key, value in (*source.entries, *source.merged):
            if isinstance(key, Scalar) and (key.tag, key.text) not in seen:
                seen.add((key.tag, key.text))
                added.append((key, value))
    return tuple(added)
