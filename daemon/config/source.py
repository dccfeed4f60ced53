"""A configuration file as bytes, as a tree, and as a refusal, for every program that reads one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from daemon.config.fault import Fault, FaultSink, Position
from daemon.config.tree import Node, YamlError, parse
from daemon.errors import ConfigLoadError, ConfigValidateError

MAX_FILE_BYTES = 4 * 2**20
"""A thousand agents with every key written need 2 MiB."""


def read_source(path: Path) -> tuple[bytes, int]:
    """The bytes of the file and its mode; blocks on the disk.

    Raises:
        ConfigLoadError: D1001; it cannot be read, is no file, or is too large.
    """
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


def parse_source(path: Path, raw: bytes) -> Node | None:
    """The tree of a file; None for one that says nothing.

    Raises:
        ConfigLoadError: D1001, with line and column; it is not UTF-8, or not YAML.
    """
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


def refuse_faults(path: Path, sink: FaultSink) -> None:
    """Refuses a file that has faults.

    Raises:
        ConfigValidateError: D1002; ``details["faults"]`` is a tuple of every fault.
    """
    faults = sink.faults()
    if not faults:
        return
    first = str(faults[0])
    if len(faults) == 1:
        message = first
    else:
        message = f"{len(faults)} faults in {path}; the first: {first} (--check lists them all)"
    raise ConfigValidateError(message, file=str(path), faults=faults)
