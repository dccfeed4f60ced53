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
from typing import Any

from daemon.config.fault import Fault, FaultSink, Position, nearest
from daemon.config.legacy import LEGACY_PATH, both_forms
from daemon.config.read import Reader
from daemon.config.resolve import resolve
from daemon.config.rules import check
from daemon.config.schema import Config
from daemon.config.tree import Node, Scalar, YamlError, parse
from daemon.errors import ConfigLoadError, ConfigValidateError

DEFAULT_PATH = Path("/etc/hostdaemon/daemon.yaml")
MAX_FILE_BYTES = 4 * 2**20
"""A thousand agents with every key written need 2 MiB."""


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
    raw, mode = _read(path)
    root = _parse(path, raw)
    sink = FaultSink(str(path))
    superseded = root is not None and both_forms(root)
    data: dict[str, Any] = {}
    if root is None or (isinstance(root, Scalar) and root.tag == "null"):
        message = "the file says nothing, or was not written to its end; write at least daemon: {}"
        sink.add((1, 1), "", message)
    else:
        data = Reader(sink, path.parent, {LEGACY_PATH} if superseded else ()).document(root)
    resolved = resolve(data, interpreter=interpreter, search_path=environ.get("PATH", os.defpath))
    check(sink, data, resolved)
    if superseded:
        sink.warn(LEGACY_PATH, "both agent and agents are written; agents wins, and this section is ignored")
    if mode & stat.S_IWOTH:
        sink.warn("", "anybody may write this file, and with it run commands as the daemon; chmod o-w")
    faults = sink.faults()
    if faults:
        raise _refusal(path, faults)
    return LoadedConfig(
        config=resolved.config,
        warnings=sink.warnings(),
        path=path,
        text_digest=hashlib.sha256(raw).hexdigest(),
        positions=sink.positions,
        agent_paths={a.id: at for a, at in zip(resolved.config.agents, resolved.paths, strict=True)},
    )


def _read(path: Path) -> tuple[bytes, int]:
    """The bytes of the file and its mode."""
    try:
        # O_NONBLOCK: a FIFO at this path must be refused, not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                message = f"{path} is not a regular file; name the configuration file"
                raise ConfigLoadError(message, file=str(path))
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as e:  # ValueError: a NUL in the path
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        message = f"{path} cannot be read: {reason}; check the path and the permissions"
        raise ConfigLoadError(message, file=str(path)) from e
    if len(raw) > MAX_FILE_BYTES:
        limit = MAX_FILE_BYTES // 2**20
        raise ConfigLoadError(f"{path} is larger than {limit} MiB; that is no configuration", file=str(path))
    return raw, mode


def _parse(path: Path, raw: bytes) -> Node | None:
    try:
        return parse(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        before = raw[: e.start]
        position = (before.count(b"\n") + 1, len(before) - before.rfind(b"\n"))
        message = f"byte 0x{raw[e.start]:02x} is not UTF-8; save the file as UTF-8"
        raise _syntax(path, position, message) from e
    except YamlError as e:
        raise _syntax(path, e.position, e.message) from e


def _syntax(path: Path, position: Position, message: str) -> ConfigLoadError:
    fault = Fault(file=str(path), line=position[0], column=position[1], path="", message=message)
    return ConfigLoadError(str(fault), file=str(path), line=position[0], column=position[1], faults=(fault,))


def _refusal(path: Path, faults: tuple[Fault, ...]) -> ConfigValidateError:
    first = str(faults[0])
    if len(faults) == 1:
        message = first
    else:
        message = f"{len(faults)} faults in {path}; the first: {first} (--check lists them all)"
    return ConfigValidateError(message, file=str(path), faults=faults)
