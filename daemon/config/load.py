"""A configuration file to a :class:`LoadedConfig`, or to every fault of it at once.

``load`` is the one door: start, reload, ``--check`` and the tests come through it. It touches no file
but the configuration itself and, for bare binary names, PATH.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.config.document import Document
from daemon.config.fault import Fault, FaultSink, Position, nearest
from daemon.config.legacy import LEGACY_PATH, both_forms
from daemon.config.read import Reader
from daemon.config.resolve import resolve
from daemon.config.rules import check
from daemon.config.schema import Config
from daemon.config.source import parse_source, read_source, refuse_faults


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A good configuration and where it came from.

    Attributes:
        warnings: what an operator may want to change; the configuration works as it is.
        path: absolute.
        text_digest: SHA-256 of the file's bytes, hex.
        positions: line and column of each written key's value, by path.
        agent_paths: where each agent stands in the file, by id, such as ``agents[2]`` (or ``agent``).
    """

    config: Config
    warnings: tuple[Fault, ...]
    path: Path
    text_digest: str
    positions: Mapping[str, Position]
    agent_paths: Mapping[str, str]

    def fault(self, path: str, message: str) -> Fault:
        """A fault of this file that was found later, placed at ``path`` or the nearest key above it."""
        line, column = nearest(self.positions, path)
        return Fault(file=str(self.path), line=line, column=column, path=path, message=message)


def load(
    path: Path, *, environ: Mapping[str, str] = os.environ, interpreter: str = sys.executable
) -> LoadedConfig:
    """Reads and validates a configuration file.

    Args:
        path: the file; relative paths inside it are relative to its directory.
        environ: PATH of it is where bare binary names are looked up, after the interpreter's directory.
        interpreter: the running Python.

    Raises:
        ConfigLoadError: missing, unreadable, too large, not UTF-8, or not YAML.
        ConfigValidateError: it was read; ``details["faults"]`` is a tuple of :class:`Fault`.
    """
    path = Path(os.path.normpath(path.absolute()))
    raw, mode = read_source(path)
    root = parse_source(path, raw)
    sink = FaultSink(str(path))
    superseded = root is not None and both_forms(root)
    reader = Reader(sink, path.parent, Document, {LEGACY_PATH} if superseded else ())
    data = reader.document(root, least="daemon: {}")
    resolved = resolve(data, interpreter=interpreter, search_path=environ.get("PATH", os.defpath))
    check(sink, data, resolved)
    if superseded:
        sink.warn(LEGACY_PATH, "both agent and agents are written; agents wins, and this section is ignored")
    if mode & stat.S_IWOTH:
        sink.warn("", "anybody may write this file, and with it run commands as the daemon; chmod o-w")
    refuse_faults(path, sink)
    return LoadedConfig(
        config=resolved.config,
        warnings=sink.warnings(),
        path=path,
        text_digest=hashlib.sha256(raw).hexdigest(),
        positions=sink.positions,
        agent_paths={a.id: at for a, at in zip(resolved.config.agents, resolved.paths, strict=True)},
    )
