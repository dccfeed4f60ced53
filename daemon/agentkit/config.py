"""agent.yaml and its environment: one frozen value, or every fault at once.

Precedence of a key: its ``AGENT_*`` variable, the file, ``HOSTDAEMON_SOCKET`` and
``HOSTDAEMON_AGENT_ID`` (which the daemon sets for the agents it starts), the built-in default. An
empty variable or value counts as not given. :data:`KEYS` is the one list of keys; the help text of
``hostagent`` is made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from daemon.agentkit.values import (
    ValueFault,
    agent_id,
    choice,
    duration_s,
    host,
    http_url,
    path_text,
    port,
    socket_path,
    version_text,
)
from daemon.errors import ConfigLoadError, ConfigValidateError

DEFAULT_PATH = Path("/etc/hostdaemon/agent.yaml")
MAX_FILE_BYTES = 1024 * 1024
_SECTIONS = ("heartbeat", "http", "log")


class HeartbeatConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where heartbeats go, and how often.

    Attributes:
        socket_path: the daemon's Unix socket, absolute; used where ``url`` is empty.
        url: the daemon's ``/heartbeat``, whole; empty: the socket.
        interval_s: seconds between heartbeats.
    """

    socket_path: str
    url: str
    interval_s: float


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's own page: address to listen on; port 0 means off."""

    host: str
    port: int


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """level: debug, info, warn or error; file: absolute, empty means stderr; format: json or text."""

    level: str
    file: str
    format: str


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration of one hostagent; ``agent_id`` is empty where nobody gave one."""

    agent_id: str
    version: str
    heartbeat: HeartbeatConfig
    http: HttpConfig
    log: LogConfig

    @property
    def needs_tls(self) -> bool:
        """Whether pyOpenSSL has to be loaded."""
        return self.heartbeat.url.startswith("https:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of the file.

    Attributes:
        path: dotted, as in the file.
        variable: the environment variable that beats the file.
        parse: the value as given, and the directory relative paths start from -> the value as used;
            raises ValueFault.
        default: built in, already in its final form.
        daemon_variable: what the daemon tells the agents it starts; used where the file is silent.
        text: how the default is shown.
    """

    path: str
    variable: str
    parse: Callable[[Any, Path], Any]
    default: Any
    daemon_variable: str = ""
    text: str = ""


KEYS = (
    Key(path="agent_id", variable="AGENT_ID", parse=agent_id, default="",
        daemon_variable="HOSTDAEMON_AGENT_ID", text="none"),
    Key(path="version", variable="AGENT_VERSION", parse=version_text, default="1.0.0"),
    Key(path="heartbeat.socket_path", variable="AGENT_HEARTBEAT_SOCKET_PATH", parse=socket_path,
        default="/tmp/daemon.sock", daemon_variable="HOSTDAEMON_SOCKET"),
    Key(path="heartbeat.url", variable="AGENT_HEARTBEAT_URL", parse=http_url, default="", text="none"),
    Key(path="heartbeat.interval", variable="AGENT_HEARTBEAT_INTERVAL", parse=duration_s, default=30.0,
        text="30s"),
    Key(path="http.host", variable="AGENT_HTTP_HOST", parse=host, default="127.0.0.1"),
    Key(path="http.port", variable="AGENT_HTTP_PORT", parse=port, default=8081, text="8081; 0: off"),
    Key(path="log.level", variable="AGENT_LOG_LEVEL", parse=choice("debug", "info", "warn", "error"),
        default="info"),
    Key(path="log.file", variable="AGENT_LOG_FILE", parse=path_text, default="", text="stderr"),
    Key(path="log.format", variable="AGENT_LOG_FORMAT", parse=choice("json", "text"), default="json"),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice; YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _value in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key_node.value!r} is written twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Mapping[str, Any]:
    """The file's mapping; empty for an empty file.

    Raises:
        ConfigLoadError: it is not YAML, or not a mapping; says the line and column.
    """
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ConfigLoadError(f"{where}{error.problem}; correct the YAML there") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigLoadError(f"not readable as YAML ({reason}); correct it") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigLoadError("the file must be a mapping of keys, such as 'version: \"1.0.0\"'")
    return data


def _flatten(data: Mapping[Any, Any], faults: list[str]) -> dict[str, Any]:
    """Dotted key -> value; unknown keys and sections of the wrong shape become faults."""
    known = [key.path for key in KEYS]
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if name in _SECTIONS:
            if isinstance(value, dict):
                flat.update({f"{name}.{inner}": content for inner, content in value.items()})
            elif value is not None:
                faults.append(f"{name}: must be a mapping")
        else:
            flat[str(name)] = value
    for path in [path for path in flat if path not in known]:
        section = path.partition(".")[0]
        near = [other for other in known if other.startswith(f"{section}.")] or [
            *_SECTIONS, *(other for other in known if "." not in other)
        ]
        faults.append(f"{path[:80]}: unknown key; there are {', '.join(near)}")
        del flat[path]
    return flat


def build_config(
    data: Mapping[str, Any], environ: Mapping[str, str], *, base: Path, cwd: Path
) -> AgentConfig:
    """The configuration from the file's mapping and the environment.

    Args:
        data: the file's content; empty where there is no file.
        environ: the environment.
        base: where relative paths of the file start.
        cwd: where relative paths of the environment start.

    Raises:
        ConfigValidateError: lists every fault, each with its key or variable.
    """
    faults: list[str] = []
    flat = _flatten(data, faults)
    values: dict[str, Any] = {}
    for key in KEYS:
        values[key.path] = key.default
        for name, value, start in (
            (key.variable, environ.get(key.variable), cwd),
            (key.path, flat.get(key.path), base),
            (key.daemon_variable, environ.get(key.daemon_variable), cwd),
        ):
            if value is None or value == "":
                continue
            try:
                values[key.path] = key.parse(value, start)
            except ValueFault as fault:
                faults.append(f"{name}: {fault}")
            break
    if environ.get("AGENT_HEARTBEAT_SOCKET_PATH") and not environ.get("AGENT_HEARTBEAT_URL"):
        values["heartbeat.url"] = ""  # the environment names a socket: it beats the file's url too
    if values["heartbeat.url"] and not values["agent_id"] and not faults:
        faults.append("agent_id: needed with heartbeat.url, over which only the id says who we are")
    if faults:
        raise ConfigValidateError("; ".join(faults), faults=tuple(faults))
    return AgentConfig(
        agent_id=values["agent_id"],
        version=values["version"],
        heartbeat=HeartbeatConfig(
            socket_path=values["heartbeat.socket_path"],
            url=values["heartbeat.url"],
            interval_s=values["heartbeat.interval"],
        ),
        http=HttpConfig(host=values["http.host"], port=values["http.port"]),
        log=LogConfig(level=values["log.level"], file=values["log.file"], format=values["log.format"]),
    )


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise ConfigLoadError(f"{path}: larger than {MAX_FILE_BYTES} bytes; that is no agent.yaml")
        return raw.decode("utf-8")
    except OSError as error:
        raise ConfigLoadError(f"{path}: {error.strerror}; check the path and its rights") from error
    except UnicodeDecodeError as error:
        raise ConfigLoadError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error


def load_config(path: Path | None, environ: Mapping[str, str]) -> AgentConfig:
    """Reads the file and the environment. Blocks on the disk.

    Args:
        path: the file; None means :data:`DEFAULT_PATH` where it exists, else environment and defaults.
        environ: the environment.

    Raises:
        ConfigLoadError: the file cannot be read or is not YAML.
        ConfigValidateError: it says something that cannot be; all faults are listed.
    """
    cwd = Path.cwd()
    if path is None:
        if not DEFAULT_PATH.exists():
            return build_config({}, environ, base=cwd, cwd=cwd)
        path = DEFAULT_PATH
    text = _read(path)
    try:
        return build_config(parse_yaml(text), environ, base=path.absolute().parent, cwd=cwd)
    except ConfigLoadError as error:
        raise ConfigLoadError(f"{path}: {error.message}") from error
    except ConfigValidateError as error:
        raise ConfigValidateError(f"{path}: {error.message}", **error.details) from error
