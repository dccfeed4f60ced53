"""Where the daemon is asked: its control socket, named by an option, the environment or its configuration.

The configuration is read only as far as its ``daemon`` section goes: a file that is broken below it, in the
worst ten minutes, must not keep anybody from asking the daemon what is wrong.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.cli.faults import CliFault, Exit
from daemon.config.places import CONTROL_SOCKET, DEFAULT_PATH, DEFAULT_WORK_DIR

ENV_SOCKET = "HOSTDAEMON_CONTROL_SOCKET"
ENV_CONFIG = "HOSTDAEMON_CONFIG"
_BYTES_MAX = 4 * 2**20
_NULLS = ("null", "Null", "NULL", "~")
_KEYS = ("work_dir", "control_socket")
_HEAD = re.compile(r"^daemon:[ ]*(?:#.*)?$", re.MULTILINE)
_ENTRY = re.compile(r"(?P<key>[a-z_]+):(?P<value>(?: .*)?)")
_VALUE = re.compile(r" +(?:\"(?P<quoted>[\w./@+-]*)\"|(?P<bare>[A-Za-z./][\w./@+-]*)) *(?: #.*)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A control socket.

    Attributes:
        path: of the socket.
        told_by: who named it: the first thing to look at when it is the wrong one.
        config: the file that named it; empty where none did.
    """

    path: str
    told_by: str
    config: str = ""


def config_path(option: str | None, environ: Mapping[str, str]) -> Path:
    """The configuration file: ``--config``, ``HOSTDAEMON_CONFIG``, or the daemon's own default."""
    return Path(option or environ.get(ENV_CONFIG) or DEFAULT_PATH)


def find_socket(socket: str | None, config: str | None, environ: Mapping[str, str]) -> Where:
    """The control socket; what is nearest to the command line wins.

    Args:
        socket: ``--socket``.
        config: ``--config``.
        environ: ``HOSTDAEMON_CONTROL_SOCKET`` and ``HOSTDAEMON_CONFIG`` are looked at, in this order.

    Raises:
        CliFault: the configuration cannot be read, or is not YAML where it names the socket.
    """
    if socket:
        return Where(path=socket, told_by="--socket")
    if not config and environ.get(ENV_SOCKET):
        return Where(path=environ[ENV_SOCKET], told_by=ENV_SOCKET)
    path = config_path(config, environ)
    named = bool(config or environ.get(ENV_CONFIG))
    if not named and not path.exists():
        return Where(path=_socket_of({}, path), told_by=f"the built-in default, for there is no {path}")
    return Where(path=_socket_of(_written(path), path), told_by=str(path), config=str(path))


def _socket_of(written: Mapping[str, str], config: Path) -> str:
    """As :mod:`daemon.config.resolve` fills it in; relative paths are relative to the file."""
    beside = config.absolute().parent
    if written.get("control_socket"):
        return os.path.normpath(beside / written["control_socket"])
    return os.path.normpath(beside / (written.get("work_dir") or DEFAULT_WORK_DIR) / CONTROL_SOCKET)


def _written(path: Path) -> dict[str, str]:
    hint = f"name the daemon's socket (--socket PATH, or {ENV_SOCKET}) or a configuration (--config FILE)"
    try:
        # O_NONBLOCK: a FIFO at this path must not be waited for.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            raw = file.read(_BYTES_MAX)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        message = f"cannot tell which daemon to ask: {path} cannot be read: {reason}"
        if isinstance(error, PermissionError):
            hint = f"sudo hostctl ..., or {hint}"
        raise CliFault(message, hint=hint, status=Exit.UNREACHABLE) from error
    try:
        text = raw.decode("utf-8-sig")
        found = plain_section(text)
        return daemon_section(text) if found is None else found
    except ValueError as error:  # not UTF-8, or not YAML
        raise CliFault(
            f"cannot tell which daemon to ask: {path} is not YAML where it says so",
            hint=f"hostctl --config {path} config check", status=Exit.UNREACHABLE,
        ) from error


def plain_section(text: str) -> dict[str, str] | None:
    """As :func:`daemon_section`, of files in the usual form and without a YAML parser, whose import takes a
    fifth of ``hostctl status``: ``daemon:`` on a line of its own, below it indented lines ``key: value``.

    Returns:
        None where anything is not that simple: YAML decides.
    """
    heads = list(_HEAD.finditer(text))
    if len(heads) != 1 or "\t" in text or "%YAML" in text:
        return None
    found: dict[str, str] = {}
    indent = 0
    for line in text[heads[0].end():].splitlines():
        words = line.lstrip(" ")
        depth = len(line) - len(words)
        if not words or words.startswith("#"):
            continue
        if depth == 0:
            break
        indent = indent or depth
        if depth > indent:  # a value that goes on: of a key that is not ours, or ours was refused below
            continue
        simple = _ENTRY.fullmatch(words)
        if depth < indent or simple is None:
            return None
        if simple["key"] in _KEYS:
            value = _VALUE.fullmatch(simple["value"])
            if value is None or simple["key"] in found or value["bare"] in _NULLS:
                return None
            found[simple["key"]] = value["quoted"] if value["quoted"] is not None else value["bare"]
    return found


def daemon_section(text: str) -> dict[str, str]:
    """``work_dir`` and ``control_socket`` of the ``daemon`` section, as written.

    Raises:
        ValueError: not YAML up to the end of that section.
    """
    import yaml

    try:
        return _read_events(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _read_events(events: Iterable[Any]) -> dict[str, str]:
    import yaml

    found: dict[str, str] = {}
    anchors: dict[str, str] = {}
    path: list[str | None] = []  # the key whose value is being read, for each open mapping; None: a key comes
    open_lists = 0
    for event in events:
        if isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
            scalar = isinstance(event, yaml.ScalarEvent)
            value = _scalar(event) if scalar else anchors.get(str(event.anchor), "")
            if scalar and event.anchor:
                anchors[event.anchor] = value
            if open_lists or not path:
                continue
            if path[-1] is None:
                path[-1] = value
                continue
            if len(path) == 2 and path[0] == "daemon" and path[1] in _KEYS:
                found[str(path[1])] = value
            path[-1] = None
        elif isinstance(event, yaml.SequenceStartEvent):
            open_lists += 1
        elif isinstance(event, yaml.MappingStartEvent):
            if open_lists:
                open_lists += 1
            else:
                path.append(None)
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            if open_lists:
                open_lists -= 1
            elif path:
                path.pop()
            if path and not open_lists:
                if len(path) == 1 and path[0] == "daemon":
                    break  # what follows is of no interest, and may be broken
                path[-1] = None
    return found


def _scalar(event: Any) -> str:
    """Its text; empty for a null."""
    return "" if event.implicit[0] and event.value in _NULLS else str(event.value)
