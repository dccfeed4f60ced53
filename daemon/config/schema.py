"""The resolved configuration: one frozen Struct per section of the file.

Everything is final here: durations are float seconds, sizes int bytes, paths absolute, defaults and
type profiles filled in. Names are those of the file. :func:`daemon.config.load.load` is the only
maker; whoever holds a :class:`Config` need not validate again.

Every field carries a :class:`~daemon.config.keys.Key`: its range, whether a reload applies it live,
and one line for editors. docs/configuration.md lists them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from daemon.config.keys import Key, Kind
from daemon.config.places import DEFAULT_WORK_DIR

_LIST_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_NAME_WORDS = "1 to 63 letters, digits, dots, dashes and underscores, the first a letter or digit"
_NODE_ID = r"(?:[A-Za-z0-9][A-Za-z0-9._:-]{0,127})?"
_ACCOUNT = r"(?:[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?)?"

MAX_PORT = 65535
DEFAULT_GRPC_PORT = 9091


def _seconds(about: str) -> Key:
    """A live duration, 0 included."""
    return Key(kind=Kind.DURATION, ge=0, live=True, about=about)


def _positive_s(about: str) -> Key:
    """A live duration above 0."""
    return Key(kind=Kind.DURATION, gt=0, live=True, about=about)


def _bytes(about: str) -> Key:
    """A live size, 0 included."""
    return Key(kind=Kind.SIZE, ge=0, live=True, about=about)


def _positive_bytes(about: str) -> Key:
    """A live size above 0."""
    return Key(kind=Kind.SIZE, gt=0, live=True, about=about)


def _path(about: str, *, live: bool = False) -> Key:
    """A path, made absolute."""
    return Key(kind=Kind.PATH, live=live, about=about)


class LogLevel(StrEnum):
    """How much the daemon logs."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class LogFormat(StrEnum):
    """How the daemon logs; ``auto`` is text on a terminal and JSON lines in a file."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class AgentType(StrEnum):
    """The kinds of agent; all but ``custom`` bring a profile (:mod:`daemon.config.profiles`)."""

    FILEBEAT = "filebeat"
    TELEGRAF = "telegraf"
    NODE_EXPORTER = "node_exporter"
    CUSTOM = "custom"


class Policy(StrEnum):
    """Which exits of an agent are followed by a restart."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section of the file: frozen, and strict about its keys."""


# --- daemon -----------------------------------------------------------------------------------------


class HttpTlsConfig(Section, frozen=True, kw_only=True):
    """TLS of the HTTP listener; off while ``cert_file`` is empty."""

    cert_file: Annotated[str, _path("PEM chain of the server")] = ""
    key_file: Annotated[str, _path("PEM private key")] = ""
    client_ca_file: Annotated[str, _path("clients with a certificate of it need no token")] = ""


class GrpcTlsConfig(Section, frozen=True, kw_only=True):
    """Mutual TLS of the gRPC server; off while ``cert_file`` is empty."""

    cert_file: Annotated[str, _path("PEM chain of the server")] = ""
    key_file: Annotated[str, _path("PEM private key")] = ""
    ca_file: Annotated[str, _path("clients must have a certificate of it")] = ""


class GrpcConfig(Section, frozen=True, kw_only=True):
    """The gRPC server."""

    tls: Annotated[GrpcTlsConfig, Key(about="mutual TLS of the gRPC server")] = GrpcTlsConfig()
    allowed_clients: Annotated[
        tuple[str, ...], Key(about="permitted client names (CN or SAN); empty: all")
    ] = ()
    insecure: Annotated[bool, Key(about="permits gRPC without mutual TLS beyond loopback")] = False
    reflection: Annotated[bool, Key(about="serves gRPC reflection")] = False


class HeartbeatConfig(Section, frozen=True, kw_only=True):
    """The heartbeat receivers."""

    workers: Annotated[int, Key(ge=1, le=1000, about="workers that drain the HTTP queue")] = 10
    queue: Annotated[int, Key(ge=1, le=1_000_000, about="heartbeats by HTTP that may wait")] = 1000
    require_pid_match: Annotated[bool, Key(about="the peer's pid must be the agent's")] = True
    max_rate: Annotated[float, Key(ge=0, about="messages per second and connection; 0: no limit")] = 0.0


class DaemonConfig(Section, frozen=True, kw_only=True):
    """The daemon itself. ``grpc_port`` is the port in effect: 0 means that gRPC is off."""

    id: Annotated[
        str,
        Key(
            about="node id; empty: the UUID in work_dir/node_id",
            pattern=_NODE_ID,
            expects="at most 128 letters, digits, dots, dashes, colons and underscores",
        ),
    ] = ""
    log_level: Annotated[LogLevel, Key(live=True, about="how much is logged")] = LogLevel.INFO
    log_file: Annotated[str, _path("empty: stderr")] = "/var/log/daemon/daemon.log"
    log_format: Annotated[
        LogFormat,
        Key(about="auto: text on stderr, JSON lines in a file; to the journal priorities and no times"),
    ] = LogFormat.AUTO
    pid_file: Annotated[str, _path("information only; empty: none")] = "/var/run/daemon.pid"
    work_dir: Annotated[str, _path("state, logs and sockets")] = DEFAULT_WORK_DIR
    socket_path: Annotated[str, _path("heartbeat socket; default work_dir/run/heartbeat.sock")] = ""
    control_socket: Annotated[str, _path("default work_dir/run/control/control.sock")] = ""
    control_group: Annotated[
        str,
        Key(
            about="a group whose members may use the control socket", pattern=_ACCOUNT, expects="a group name"
        ),
    ] = ""
    http_host: Annotated[str, Key(kind=Kind.HOST, about="beyond loopback needs http_tls")] = "127.0.0.1"
    http_port: Annotated[int, Key(ge=0, le=MAX_PORT, about="0: off")] = 8084
    http_tls: Annotated[HttpTlsConfig, Key(about="TLS of the HTTP listener")] = HttpTlsConfig()
    grpc_host: Annotated[str, Key(kind=Kind.HOST, about="beyond loopback needs mutual TLS")] = "127.0.0.1"
    grpc_port: Annotated[
        int,
        Key(
            ge=0,
            le=MAX_PORT,
            nullable=True,
            about="null: 9091 when manager.address or grpc is written, else off; 0: off",
        ),
    ] = 0
    grpc: Annotated[GrpcConfig, Key(about="the gRPC server")] = GrpcConfig()
    labels: Annotated[Mapping[str, str], Key(about="sent at registration")] = {}
    heartbeat: Annotated[HeartbeatConfig, Key(about="the heartbeat receivers")] = HeartbeatConfig()


# --- manager ----------------------------------------------------------------------------------------


class ManagerTlsConfig(Section, frozen=True, kw_only=True):
    """TLS towards the Manager; off while every key is empty."""

    cert_file: Annotated[str, _path("PEM chain of this node", live=True)] = ""
    key_file: Annotated[str, _path("PEM private key of this node", live=True)] = ""
    ca_file: Annotated[str, _path("empty: the system's authorities", live=True)] = ""
    server_name: Annotated[
        str, Key(live=True, about="name in the Manager's certificate; empty: the host")
    ] = ""

    @property
    def enabled(self) -> bool:
        """Whether the link speaks TLS."""
        return bool(self.cert_file or self.ca_file or self.server_name)


class QueueConfig(Section, frozen=True, kw_only=True):
    """Reports that wait for the Manager on disk."""

    max_age: Annotated[float, _positive_s("older ones are dropped")] = 86400.0
    max_size: Annotated[int, _positive_bytes("the oldest beyond are dropped")] = 64 * 2**20


class ManagerConfig(Section, frozen=True, kw_only=True):
    """The link to the Manager; an empty ``address`` means stand-alone."""

    address: Annotated[str, Key(kind=Kind.ADDRESS, live=True, about="host:port; empty: stand-alone")] = ""
    tls: Annotated[ManagerTlsConfig, Key(live=True, about="TLS towards the Manager")] = ManagerTlsConfig()
    heartbeat_interval: Annotated[float, _positive_s("between Heartbeats")] = 60.0
    report_interval: Annotated[float, _positive_s("between ReportMetrics")] = 60.0
    sync_interval: Annotated[float, _positive_s("between whole SyncAgentStates")] = 60.0
    reconnect_interval: Annotated[float, _positive_s("first delay; doubles, full jitter")] = 10.0
    reconnect_max: Annotated[float, _positive_s("longest delay")] = 300.0
    timeout: Annotated[float, _positive_s("deadline of a call")] = 30.0
    queue: Annotated[QueueConfig, Key(live=True, about="reports waiting for the Manager")] = QueueConfig()


# --- agents -----------------------------------------------------------------------------------------


class LimitsConfig(Section, frozen=True, kw_only=True):
    """Resource limits of an agent (setrlimit(2)); 0 inherits the daemon's."""

    nofile: Annotated[int, Key(ge=0, le=2**30, about="open files; 0: inherited")] = 0
    core: Annotated[int, Key(ge=0, le=2**60, about="bytes of a core file; 0: inherited")] = 0


class HealthCheckConfig(Section, frozen=True, kw_only=True):
    """How an agent's health is judged."""

    interval: Annotated[float, _positive_s("between two looks")] = 30.0
    start_period: Annotated[float, _seconds("forgiven after a start")] = 10.0
    heartbeat_timeout: Annotated[float, _seconds("0: off; arms with the first heartbeat")] = 90.0
    cpu_threshold: Annotated[
        float, Key(ge=0, live=True, about="percent of one core, whole session; 0: off")
    ] = 50.0
    memory_threshold: Annotated[int, _bytes("resident bytes, whole session; 0: off")] = 524288000
    threshold_duration: Annotated[float, _seconds("above a threshold that long")] = 60.0
    http_endpoint: Annotated[str, Key(kind=Kind.URL, live=True, about="asked by GET; empty: off")] = ""
    http_timeout: Annotated[float, _positive_s("deadline of a probe")] = 5.0
    failure_threshold: Annotated[int, Key(ge=1, le=1000, live=True, about="misses in a row")] = 3
    tcp: Annotated[str, Key(kind=Kind.ADDRESS, live=True, about="host:port to connect to; empty: off")] = ""
    command: Annotated[tuple[str, ...], Key(kind=Kind.COMMAND, live=True, about="exit status 0 is well")] = ()


class RestartConfig(Section, frozen=True, kw_only=True):
    """When and how fast an agent is started again."""

    policy: Annotated[Policy, Key(live=True, about="which exits are followed by a restart")] = Policy.ALWAYS
    max_retries: Annotated[int, Key(ge=0, le=10**6, live=True, about="0: no limit")] = 10
    backoff_base: Annotated[float, _seconds("0s: every restart at once")] = 10.0
    backoff_max: Annotated[float, _positive_s("longest delay")] = 60.0
    jitter: Annotated[float, Key(ge=0, le=1, live=True, about="part of the delay that is random")] = 0.0
    reset_after: Annotated[float, _positive_s("healthy that long: the count restarts")] = 300.0
    slow_retry: Annotated[float, _seconds("between tries once failed; 0: never")] = 900.0
    max_restarts_per_hour: Annotated[
        int, Key(ge=0, le=1000, live=True, about="automatic ones; 0: no limit")
    ] = 20


class LogsConfig(Section, frozen=True, kw_only=True):
    """The agent's captured output."""

    max_size: Annotated[int, _positive_bytes("of the live file")] = 50 * 2**20
    max_files: Annotated[int, Key(ge=1, le=1000, live=True, about="rotated files kept")] = 5
    max_age: Annotated[float, _seconds("of a rotated file; 0: any")] = 0.0
    compress: Annotated[bool, Key(live=True, about="gzip rotated files")] = True
    max_total: Annotated[int, _positive_bytes("of all the agent's files")] = 500 * 2**20


class AgentConfig(Section, frozen=True, kw_only=True):
    """One agent, its profile and defaults filled in.

    Attributes:
        args: the final argument list.
        umask: the number itself (``"022"`` in the file is 18 here).
        stop_signal: without ``SIG``, such as ``TERM``.
        version_command: empty: nothing is run.
        heartbeat_from_start: the heartbeat timeout counts from the start instead of arming with the
            first heartbeat: type ``custom`` with a timeout above 0 written on the agent itself.
    """

    id: Annotated[str, Key(about="unique", pattern=_LIST_NAME, expects=_NAME_WORDS)]
    type: Annotated[AgentType, Key(about="what it is; brings a profile")]
    binary_path: Annotated[str, Key(kind=Kind.BINARY, about="a bare name is looked up on PATH")]
    name: Annotated[str, Key(live=True, about="for people")] = ""
    config_file: Annotated[str, _path("the agent's own configuration")] = ""
    work_dir: Annotated[str, _path("default {daemon.work_dir}/agents/{id}")] = ""
    socket_path: Annotated[str, _path("heartbeat socket; default the daemon's")] = ""
    enabled: Annotated[bool, Key(about="false: registered, not started")] = True
    args: Annotated[tuple[str, ...], Key(kind=Kind.WORD, about="replaces the type's own")] = ()
    env: Annotated[Mapping[str, str], Key(about="added to the small explicit environment")] = {}
    user: Annotated[
        str, Key(about="runs as; empty: as the daemon", pattern=_ACCOUNT, expects="a user name")
    ] = ""
    group: Annotated[str, Key(about="empty: the user's", pattern=_ACCOUNT, expects="a group name")] = ""
    umask: Annotated[int, Key(kind=Kind.OCTAL, about='octal text such as "022"')] = 0o022
    limits: Annotated[LimitsConfig, Key(about="resource limits")] = LimitsConfig()
    start_seconds: Annotated[float, _seconds("alive that long = started")] = 1.0
    stop_signal: Annotated[str, Key(kind=Kind.SIGNAL, live=True, about="asks it to stop")] = "TERM"
    stop_timeout: Annotated[float, _positive_s("then SIGKILL")] = 30.0
    version_command: Annotated[tuple[str, ...], Key(kind=Kind.COMMAND, about="empty: the type's own")] = ()
    health_check: Annotated[HealthCheckConfig, Key(live=True, about="how health is judged")] = (
        HealthCheckConfig()
    )
    restart: Annotated[RestartConfig, Key(live=True, about="when it is restarted")] = RestartConfig()
    logs: Annotated[LogsConfig, Key(live=True, about="its captured output")] = LogsConfig()
    heartbeat_from_start: Annotated[bool, Key(live=True, derived=True)] = False


# --- collectors, resources, update ------------------------------------------------------------------


class CollectorConfig(Section, frozen=True, kw_only=True):
    """A built-in collector."""

    enabled: Annotated[bool, Key(live=True, about="whether it runs")] = True
    interval: Annotated[float, _positive_s("between rounds")] = 60.0
    timeout: Annotated[float, _positive_s("deadline of a round")] = 10.0


class DiskCollectorConfig(CollectorConfig, frozen=True, kw_only=True):
    """The disk collector."""

    mount_points: Annotated[tuple[str, ...], Key(kind=Kind.MOUNT, live=True, about="empty: all")] = ()


class NetworkCollectorConfig(CollectorConfig, frozen=True, kw_only=True):
    """The network collector."""

    interfaces: Annotated[tuple[str, ...], Key(live=True, about="empty: all")] = ()


class TextfileCollectorConfig(Section, frozen=True, kw_only=True):
    """Metrics other programs leave as ``.prom`` files."""

    enabled: Annotated[bool, Key(live=True, about="whether it runs; needs directory")] = False
    directory: Annotated[str, _path("where the .prom files are", live=True)] = ""
    interval: Annotated[float, _positive_s("between rounds")] = 60.0
    timeout: Annotated[float, _positive_s("deadline of a round")] = 10.0


class ExecCollectorConfig(Section, frozen=True, kw_only=True):
    """A command whose JSON output is a sample."""

    name: Annotated[
        str, Key(live=True, about="of the metrics; unique", pattern=_LIST_NAME, expects=_NAME_WORDS)
    ]
    command: Annotated[tuple[str, ...], Key(kind=Kind.COMMAND, live=True, about="prints one JSON object")]
    interval: Annotated[float, _positive_s("between rounds")] = 60.0
    timeout: Annotated[float, _positive_s("deadline of a round")] = 10.0


class CollectorsConfig(Section, frozen=True, kw_only=True):
    """What is measured of the host."""

    cpu: Annotated[CollectorConfig, Key(live=True, about="processors")] = CollectorConfig()
    memory: Annotated[CollectorConfig, Key(live=True, about="memory")] = CollectorConfig()
    disk: Annotated[DiskCollectorConfig, Key(live=True, about="filesystems")] = DiskCollectorConfig()
    network: Annotated[NetworkCollectorConfig, Key(live=True, about="interfaces")] = NetworkCollectorConfig()
    textfile: Annotated[TextfileCollectorConfig, Key(live=True, about=".prom files")] = (
        TextfileCollectorConfig()
    )
    exec: Annotated[tuple[ExecCollectorConfig, ...], Key(live=True, about="commands that print JSON")] = ()
    plugins: Annotated[
        Mapping[str, Mapping[str, Any]],
        Key(kind=Kind.OPTIONS, live=True, about="options of entry points in hostdaemon.collectors"),
    ] = {}


class ResourcesConfig(Section, frozen=True, kw_only=True):
    """The history of what agents use; the thresholds here raise alerts only."""

    interval: Annotated[float, _positive_s("between samples")] = 60.0
    history: Annotated[float, _positive_s("how long samples are kept")] = 86400.0
    cpu_threshold: Annotated[float, Key(ge=0, live=True, about="percent of one core; 0: no alerts")] = 0.0
    memory_threshold: Annotated[int, _bytes("bytes; 0: no alerts")] = 0
    webhook: Annotated[str, Key(kind=Kind.URL, live=True, about="alerts are posted to it; empty: none")] = ""


class UpdateConfig(Section, frozen=True, kw_only=True):
    """Signed updates of agents and of the daemon."""

    download_dir: Annotated[str, _path("default {work_dir}/downloads", live=True)] = ""
    backup_dir: Annotated[str, _path("default {work_dir}/backups", live=True)] = ""
    max_backups: Annotated[int, Key(ge=1, le=1000, live=True, about="per component")] = 5
    verify_timeout: Annotated[float, _positive_s("to become healthy after an update")] = 300.0
    verify_period: Annotated[float, _seconds("healthy that long")] = 30.0
    public_key_file: Annotated[str, _path("PEM; empty: updates refused", live=True)] = ""
    allowed_urls: Annotated[
        tuple[str, ...], Key(kind=Kind.URL, live=True, about="URL prefixes; empty: no URL")
    ] = ()
    allow_bare: Annotated[bool, Key(live=True, about="accepts a bare executable as a package")] = False
    max_package_size: Annotated[int, _positive_bytes("of a download")] = 512 * 2**20
    max_inline_size: Annotated[
        int, Key(kind=Kind.SIZE, gt=0, le=2**30, live=True, about="of update_data in a request")
    ] = 32 * 2**20


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration."""

    daemon: DaemonConfig = DaemonConfig()
    manager: ManagerConfig = ManagerConfig()
    agents: tuple[AgentConfig, ...] = ()
    collectors: CollectorsConfig = CollectorsConfig()
    resources: ResourcesConfig = ResourcesConfig()
    update: UpdateConfig = UpdateConfig()
