"""manager.yaml to a :class:`ManagerConfig`, or to every fault of it at once.

The file is read by :mod:`daemon.config`, so that both programs' files are written and refused in the same
words; what the keys mean together is said here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from daemon.config.fault import Fault, FaultSink
from daemon.config.read import Reader
from daemon.config.rules import is_loopback
from daemon.config.source import parse_source, read_source, refuse_faults
from daemon.manager.config import Document, ManagerConfig

DEFAULT_PATH = Path("/etc/hostdaemon/manager.yaml")


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
    root = parse_source(path, read_source(path)[0])
    data = Reader(sink, path.parent, Document).document(root, least="manager: {}")
    config = msgspec.convert(data, Document).manager
    check(sink, config)
    refuse_faults(path, sink)
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
