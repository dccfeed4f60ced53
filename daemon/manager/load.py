"""manager.yaml to a :class:`ManagerConfig`, or to every fault of it at once.

The tree, the scalars and the faults are those of :mod:`daemon.config`, so that both files are written and
refused in the same words.
"""

from __future__ import annotations

import difflib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from daemon.config.fault import Fault, FaultSink
from daemon.config.keys import Field, Kind, written_fields
from daemon.config.rules import is_loopback
from daemon.config.scalars import read_scalar, shown
from daemon.config.tree import Mapping, Node, Scalar, Sequence, YamlError, parse
from daemon.errors import ConfigLoadError, ConfigValidateError
from daemon.manager.config import Document, ManagerConfig

DEFAULT_PATH = Path("/etc/hostdaemon/manager.yaml")
MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A good configuration, where it came from, and what the operator should know of it."""

    config: ManagerConfig
    path: Path
    warnings: tuple[Fault, ...]


def load(path: Path) -> LoadedConfig:
    """Reads and validates a file; blocks on the disk.

    Raises:
        ConfigLoadError: it cannot be read or is not YAML.
        ConfigValidateError: ``details["faults"]`` is a tuple of every :class:`Fault`.
    """
    path = Path(os.path.normpath(path.absolute()))
    sink = FaultSink(str(path))
    root = _parse(path, _read(path))
    data: dict[str, Any] = {}
    if root is None or (isinstance(root, Scalar) and root.tag == "null"):
        sink.add((1, 1), "", "the file says nothing; write at least manager: {}")
    else:
        data = _Reader(sink, path.parent).section(root, Document, "")
    config = msgspec.convert(data, Document).manager
    check(sink, config)
    faults = sink.faults()
    if faults:
        more = f" ({len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise ConfigValidateError(f"{faults[0]}{more}", file=str(path), faults=faults)
    return LoadedConfig(config=config, path=path, warnings=sink.warnings())


def check(sink: FaultSink, config: ManagerConfig) -> None:
    """The rules that compare keys; pure."""
    for section, cert, key in (
        ("manager.grpc.tls", config.grpc.tls.cert_file, config.grpc.tls.key_file),
        ("manager.http_tls", config.http_tls.cert_file, config.http_tls.key_file),
        ("manager.daemon_tls", config.daemon_tls.cert_file, config.daemon_tls.key_file),
    ):
        if bool(cert) != bool(key):
            written, missing = ("cert_file", "key_file") if cert else ("key_file", "cert_file")
            sink.rule(
                f"{section}.{written}", f"needs {missing}: a certificate and its key come together",
                about=(section, f"{section}.{missing}"),
            )
    _grpc(sink, config)
    _http(sink, config)


def _grpc(sink: FaultSink, config: ManagerConfig) -> None:
    tls = config.grpc.tls
    section = "manager.grpc.tls"
    files = (section, *(f"{section}.{name}" for name in ("cert_file", "key_file", "ca_file")))
    if tls.ca_file and not tls.cert_file and not tls.key_file:
        sink.rule(files[3], "needs cert_file and key_file: TLS is off without them", about=files)
    if config.grpc.allowed_clients and not tls.ca_file:
        sink.rule(
            "manager.grpc.allowed_clients",
            "needs tls.ca_file: without it daemons show no certificate, and their names are unknown",
            about=files,
        )
    if is_loopback(config.grpc_host) or (tls.cert_file and tls.ca_file):
        return
    if config.grpc.insecure:
        sink.warn(
            "manager.grpc.insecure",
            f"anybody who reaches {config.grpc_host or 'this host'} may report as any node; nobody is proven",
        )
    elif not (bool(tls.cert_file) ^ bool(tls.key_file)):
        sink.rule(
            "manager.grpc_host",
            f"{config.grpc_host or 'every interface'} is reached from other hosts, and anybody could report"
            " as any node; write grpc.tls.cert_file, key_file and ca_file, or listen on 127.0.0.1"
            " (grpc.insecure: true permits it as it is)",
            about=("manager.grpc", "manager.grpc.insecure", *files),
        )


def _http(sink: FaultSink, config: ManagerConfig) -> None:
    tls = config.http_tls
    files = ("manager.http_tls", "manager.http_tls.cert_file", "manager.http_tls.key_file")
    if tls.client_ca_file and not tls.cert_file and not tls.key_file:
        sink.rule(
            "manager.http_tls.client_ca_file", "needs cert_file and key_file: TLS is off without them",
            about=files,
        )
    if config.http_port and config.http_port == config.grpc_port and config.http_host == config.grpc_host:
        sink.rule(
            "manager.http_port", f"{config.http_port} is grpc_port too; the two need a port each",
            about=("manager.grpc_port", "manager.http_host", "manager.grpc_host"),
        )
    if not config.http_port or is_loopback(config.http_host) or tls.cert_file or tls.key_file:
        return
    host = config.http_host or "every interface"
    if config.http_insecure:
        sink.warn("manager.http_insecure", f"tokens travel to {host} in plain text")
    else:
        sink.rule(
            "manager.http_host",
            f"{host} is reached from other hosts; write http_tls.cert_file and http_tls.key_file, or listen"
            " on 127.0.0.1 (http_insecure: true permits it as it is)",
            about=("manager.http_port", "manager.http_insecure", *files),
        )


class _Reader:
    """The tree against the sections: plain data as written, without what is faulty."""

    def __init__(self, sink: FaultSink, base: Path) -> None:
        self._sink = sink
        self._base = base

    def section(self, node: Node, struct: type[msgspec.Struct], path: str) -> dict[str, Any]:
        """The keys of one section."""
        if isinstance(node, Scalar) and node.tag == "null":
            return {}  # every key of it commented out
        if not isinstance(node, Mapping):
            self._sink.add(node.position, path, "must be a mapping of keys")
            return {}
        fields = written_fields(struct)
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in (*node.entries, *node.merged):
            name = key.text if isinstance(key, Scalar) else ""
            at = f"{path}.{name[:64]}" if path else name[:64]
            if name in lines:
                self._sink.add(key.position, at, f"is written twice; the first one is in line {lines[name]}")
            elif name not in fields:
                self._sink.add(key.position, at, _unknown(name, list(fields)))
            else:
                self._sink.positions[at] = value.position
                try:
                    found[name] = self._value(value, fields[name], at)
                except ValueError as error:
                    self._sink.add(value.position, at, str(error))
            lines.setdefault(name, key.position[0])
        return found

    def _value(self, node: Node, field: Field, path: str) -> Any:
        if field.kind is Kind.SECTION:
            assert field.struct is not None
            return self.section(node, field.struct, path)
        if field.kind is Kind.LIST:
            if not isinstance(node, Sequence):
                raise ValueError("must be a list, such as [one, two]")
            return [self._scalar(item, field, field.item) for item in node.items]
        return self._scalar(node, field, field.kind)

    def _scalar(self, node: Node, field: Field, kind: Kind) -> Any:
        if not isinstance(node, Scalar):
            raise ValueError("must be a single value")
        value = read_scalar(node, field, kind)
        if kind is Kind.PATH and value:
            return os.path.normpath(self._base / value)
        return value


def _unknown(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name.lower().replace("-", "_")[:64], names, n=1, cutoff=0.6)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known here: {', '.join(names)}"


def _read(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO is refused, not waited for
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigLoadError(f"{path} is not a regular file; name the configuration file")
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigLoadError(f"{path} cannot be read: {reason}; check the path and its rights") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigLoadError(f"{path} is larger than {MAX_FILE_BYTES} bytes; that is no configuration")
    return raw


def _parse(path: Path, raw: bytes) -> Node | None:
    try:
        return parse(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigLoadError(f"{path}:{line}: this is not UTF-8; save the file as UTF-8") from error
    except YamlError as error:
        line, column = error.position
        raise ConfigLoadError(f"{path}:{line}:{column}: {shown(error.message)[1:-1]}") from error
