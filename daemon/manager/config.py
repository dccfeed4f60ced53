"""manager.yaml: what it may say, as frozen values. :func:`daemon.manager.load.load` is the only maker."""

from __future__ import annotations

from typing import Annotated

import msgspec

from daemon.config.keys import Key, Kind
from daemon.config.schema import MAX_PORT, GrpcTlsConfig, HttpTlsConfig, LogFormat, LogLevel, Section

MISSED_HEARTBEATS = 3
"""A node is offline after that many."""


def _path(about: str) -> Key:
    return Key(kind=Kind.PATH, about=about)


def _duration(about: str) -> Key:
    return Key(kind=Kind.DURATION, gt=0, about=about)


def _port(about: str, least: int = 0) -> Key:
    return Key(ge=least, le=MAX_PORT, about=about)


class GrpcConfig(Section, frozen=True, kw_only=True):
    """The gRPC server that daemons report to."""

    tls: Annotated[GrpcTlsConfig, Key(about="mutual TLS")] = GrpcTlsConfig()
    allowed_clients: Annotated[
        tuple[str, ...], Key(about="permitted names of daemons' certificates (CN or SAN); empty: all")
    ] = ()
    insecure: Annotated[bool, Key(about="permits gRPC without mutual TLS beyond loopback")] = False


class DaemonTlsConfig(Section, frozen=True, kw_only=True):
    """How the Manager proves itself to daemons; while ``ca_file`` is empty, the files of ``grpc.tls``."""

    cert_file: Annotated[str, _path("PEM chain of the Manager as a client")] = ""
    key_file: Annotated[str, _path("PEM private key")] = ""
    ca_file: Annotated[str, _path("daemons must have a certificate of it")] = ""
    server_name: Annotated[
        str, Key(about="the name in a daemon's certificate; {hostname} and {node_id} stand for the node's")
    ] = ""


class DatabaseConfig(Section, frozen=True, kw_only=True):
    """Where everything is kept."""

    path: Annotated[str, _path("the SQLite file; default {work_dir}/manager.db")] = ""


class RetentionConfig(Section, frozen=True, kw_only=True):
    """How long things are kept, counted from when they came in."""

    metrics: Annotated[float, _duration("samples")] = 7 * 86400.0
    events: Annotated[float, _duration("events and log entries")] = 30 * 86400.0
    commands: Annotated[float, _duration("operations and their results")] = 90 * 86400.0
    agents: Annotated[float, _duration("an agent its node no longer names")] = 600.0


class ManagerConfig(Section, frozen=True, kw_only=True):
    """The whole of it; paths are absolute, durations float seconds."""

    id: Annotated[str, Key(about="how it calls itself; default: the host's name")] = ""
    work_dir: Annotated[str, _path("database, token and lock")] = "/var/lib/hostmanager"
    log_level: Annotated[LogLevel, Key(about="the least that is logged")] = LogLevel.INFO
    log_file: Annotated[str, _path("empty: stderr")] = ""
    log_format: Annotated[LogFormat, Key(about="auto, text or json")] = LogFormat.AUTO
    grpc_host: Annotated[str, Key(kind=Kind.HOST, about="where daemons report to")] = "127.0.0.1"
    grpc_port: Annotated[int, _port("its port", 1)] = 9090
    grpc: Annotated[GrpcConfig, Key(about="the gRPC server")] = GrpcConfig()
    http_host: Annotated[str, Key(kind=Kind.HOST, about="the API and the page")] = "127.0.0.1"
    http_port: Annotated[int, _port("its port; 0: off")] = 8090
    http_tls: Annotated[HttpTlsConfig, Key(about="TLS of the API")] = HttpTlsConfig()
    http_insecure: Annotated[bool, Key(about="permits HTTP without TLS beyond loopback")] = False
    database: Annotated[DatabaseConfig, Key(about="where everything is kept")] = DatabaseConfig()
    heartbeat_interval: Annotated[float, _duration("how often daemons say that they live")] = 60.0
    retention: Annotated[RetentionConfig, Key(about="how long things are kept")] = RetentionConfig()
    daemon_port: Annotated[int, _port("gRPC port of a daemon without the label grpc_port", 1)] = 9091
    daemon_tls: Annotated[DaemonTlsConfig, Key(about="TLS towards daemons")] = DaemonTlsConfig()

    @property
    def database_path(self) -> str:
        """The database's file."""
        return self.database.path or f"{self.work_dir}/manager.db"

    @property
    def offline_after_s(self) -> float:
        """Seconds without a heartbeat after which a node is offline."""
        return MISSED_HEARTBEATS * self.heartbeat_interval

    @property
    def client_tls(self) -> DaemonTlsConfig:
        """The files to use towards daemons."""
        if self.daemon_tls.ca_file:
            return self.daemon_tls
        own = self.grpc.tls
        return msgspec.structs.replace(
            self.daemon_tls, cert_file=own.cert_file, key_file=own.key_file, ca_file=own.ca_file
        )


class Document(Section, frozen=True, kw_only=True):
    """The file."""

    manager: Annotated[ManagerConfig, Key(about="the Manager")] = ManagerConfig()
