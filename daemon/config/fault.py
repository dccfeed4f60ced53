"""A fault of a configuration file, and the sink that gathers all of them before anything is said.

The reader and the rules add to one :class:`FaultSink`; :mod:`daemon.config.load` empties it into a
single error, so that an operator meets every fault of a file at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

MAX_FAULTS = 500
"""Kept of one file: past this many the file is not a configuration, and memory is."""

Position = tuple[int, int]
"""Line and column, both from 1."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong, or worth a warning, in a configuration file.

    Attributes:
        file: the file as it was named to ``load``.
        line: from 1.
        column: from 1, in characters.
        path: the key, such as ``agents[2].restart.policy``; empty for the file as a whole.
        message: what is wrong and what to write instead.
    """

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        return f"{where}{self.path}: {self.message}" if self.path else where + self.message


def parent(path: str) -> str:
    """The path one level up: ``agents[2].env["a.b"]`` -> ``agents[2].env`` -> ``agents[2]`` -> ``agents``."""
    if path.endswith('"]'):
        return path[: path.rindex('["')]
    if path.endswith("]"):
        return path[: path.rindex("[")]
    return path[: path.rindex(".")] if "." in path else ""


def nearest(positions: Mapping[str, Position], path: str) -> Position:
    """Where ``path`` is written, or the nearest key above it; the start of the file at last."""
    while path and path not in positions:
        path = parent(path)
    return positions.get(path, (1, 1))


class FaultSink:
    """Gathers the faults and warnings of one file.

    Args:
        file: the name that goes into each fault.

    Attributes:
        positions: where each written key's value stands, by path.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.positions: dict[str, Position] = {}
        self._faults: list[Fault] = []
        self._warnings: list[Fault] = []
        self._faulty: set[str] = set()
        self._dropped = 0

    def add(self, position: Position, path: str, message: str) -> None:
        """Adds a fault at a known place."""
        self._faulty.add(path)
        if self.full:
            self._dropped += 1
        else:
            self._faults.append(self._fault(position, path, message))

    def rule(self, path: str, message: str, *, about: Iterable[str] = ()) -> None:
        """Adds a fault found by comparing keys.

        Args:
            path: the key to blame; where it was not written, the nearest written one above it.
            about: the other keys the rule looked at. When one of them is faulty itself the rule is
                silent: it saw a default instead of what was written.
        """
        if self._faulty.isdisjoint((path, *about)):
            self.add(self.position(path), path, message)

    def warn(self, path: str, message: str) -> None:
        """Adds a warning; the file stays good."""
        self._warnings.append(self._fault(self.position(path), path, message))

    @property
    def full(self) -> bool:
        """Whether further faults are only counted: no need to word them with care."""
        return len(self._faults) >= MAX_FAULTS

    def position(self, path: str) -> Position:
        """Where ``path`` is written, or the nearest key above it."""
        return nearest(self.positions, path)

    def faults(self) -> tuple[Fault, ...]:
        """Every fault, in the order of the file."""
        found = sorted(self._faults, key=_in_file_order)
        if self._dropped:
            found.append(self._fault(_place(found[-1]), "", f"{self._dropped} more faults are left out"))
        return tuple(found)

    def warnings(self) -> tuple[Fault, ...]:
        """Every warning, in the order of the file."""
        return tuple(sorted(self._warnings, key=_in_file_order))

    def _fault(self, position: Position, path: str, message: str) -> Fault:
        return Fault(file=self.file, line=position[0], column=position[1], path=path, message=message)


def _place(fault: Fault) -> Position:
    return fault.line, fault.column


def _in_file_order(fault: Fault) -> tuple[int, int, str]:
    return fault.line, fault.column, fault.path
