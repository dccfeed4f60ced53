"""The rules that compare keys: ids, sockets, ports, TLS; and the warnings. Pure.

They look at the resolved configuration, in which a faulty value was replaced by its default;
:meth:`FaultSink.rule` keeps quiet where that would mislead.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Any

from daemon.config.fault import FaultSink
from daemon.config.legacy import LEGACY_PATH, written_agents
from daemon.config.profiles import PROFILES
from daemon.config.resolve import Resolved
from daemon.config.schema import AgentConfig, Config, DaemonConfig

MAX_SOCKET_PATH = 103
"""Bytes: sun_path of unix(7) holds 108 on Linux and 104 on BSD, the closing NUL included."""
MAX_HISTORY_POINTS = 1_000_000
"""Points of each agent's ring; the default is 1440."""
RESERVED_IDS = frozenset({"daemon", "agent", "start", "stop", "restart", "all"})
"""Names of routes and update components."""
BUILT_IN_COLLECTORS = frozenset({"cpu", "memory", "disk", "network", "textfile"})
OWN_VARIABLES = frozenset({"HOSTDAEMON_AGENT_ID", "HOSTDAEMON_SOCKET", "HOSTDAEMON_MARK"})
"""Environment variables the daemon gives each agent."""


def check(sink: FaultSink, data: Mapping[str, Any], resolved: Resolved) -> None:
    """Adds what is wrong between keys, and the warnings, to ``sink``."""
    config = resolved.config
    _ids(sink, data)
    _listeners(sink, config.daemon)
    _http_tls(sink, config.daemon)
    _grpc_tls(sink, config.daemon)
    _manager(sink, config)
    _collectors(sink, data, config)
    _numbers(sink, config)
    written = dict(written_agents(dict(data)))
    for path, agent in zip(resolved.paths, config.agents, strict=True):
        _agent(sink, path, agent, config.daemon, written[path])
        _agent_warnings(sink, path, agent, written[path])


def is_loopback(host: str) -> bool:
    """Whether nobody outside this host reaches a listener there; an empty host is every interface."""
    if host.rstrip(".").lower() in ("localhost", "ip6-localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _ids(sink: FaultSink, data: Mapping[str, Any]) -> None:
    first: dict[str, str] = {}
    for path, agent in written_agents(dict(data)):
        agent_id = agent.get("id")
        if agent_id is None or path == LEGACY_PATH:
            continue
        if agent_id in RESERVED_IDS:
            sink.rule(f"{path}.id", f"{agent_id} is a reserved name (daemon agent start stop restart all)")
        elif agent_id in first:
            sink.rule(f"{path}.id", f"{agent_id} is the id of {first[agent_id]} already; ids are unique")
        else:
            first[agent_id] = path


def _socket(sink: FaultSink, path: str, value: str, about: str) -> None:
    length = len(os.fsencode(value))
    if length > MAX_SOCKET_PATH:
        sink.rule(
            path,
            f"the socket path {value} has {length} bytes, and the system's limit is below 104;"
            " write a shorter path here",
            about=(about,),
        )


def _listeners(sink: FaultSink, daemon: DaemonConfig) -> None:
    _socket(sink, "daemon.socket_path", daemon.socket_path, "daemon.work_dir")
    _socket(sink, "daemon.control_socket", daemon.control_socket, "daemon.work_dir")
    if daemon.socket_path == daemon.control_socket:
        sink.rule(
            "daemon.control_socket", "is the heartbeat socket too; the two need a path each",
            about=("daemon.socket_path",),
        )  # fmt: skip
    same_host = daemon.http_host == daemon.grpc_host or "" in (daemon.http_host, daemon.grpc_host)
    if daemon.http_port and daemon.http_port == daemon.grpc_port and same_host:
        sink.rule(
            "daemon.grpc_port", f"{daemon.grpc_port} is http_port too; the two need a port each",
            about=("daemon.http_port", "daemon.http_host", "daemon.grpc_host"),
        )  # fmt: skip


def _pair(sink: FaultSink, section: str, cert: str, key: str) -> None:
    """A certificate and its key come together."""
    names = (f"{section}.cert_file", f"{section}.key_file")
    if cert and not key:
        sink.rule(names[0], "needs key_file, the private key of this certificate", about=names)
    if key and not cert:
        sink.rule(names[1], "needs cert_file, the certificate of this key", about=names)


def _http_tls(sink: FaultSink, daemon: DaemonConfig) -> None:
    tls, section = daemon.http_tls, "daemon.http_tls"
    files = (section, f"{section}.cert_file", f"{section}.key_file")
    _pair(sink, section, tls.cert_file, tls.key_file)
    if tls.client_ca_file and not tls.cert_file and not tls.key_file:
        message = "needs cert_file and key_file: TLS is off without them"
        sink.rule(f"{section}.client_ca_file", message, about=files)
    if daemon.http_port and not is_loopback(daemon.http_host) and not (tls.cert_file or tls.key_file):
        sink.rule(
            "daemon.http_host",
            f"{_named(daemon.http_host)} is reached from other hosts; write http_tls.cert_file and"
            " http_tls.key_file, or listen on 127.0.0.1",
            about=("daemon.http_port", *files),
        )


def _grpc_tls(sink: FaultSink, daemon: DaemonConfig) -> None:
    grpc, section = daemon.grpc, "daemon.grpc.tls"
    tls = grpc.tls
    files = (section, *(f"{section}.{name}" for name in ("cert_file", "key_file", "ca_file")))
    _pair(sink, section, tls.cert_file, tls.key_file)
    if tls.ca_file and not tls.cert_file and not tls.key_file:
        sink.rule(f"{section}.ca_file", "needs cert_file and key_file: TLS is off without them", about=files)
    if grpc.allowed_clients and not tls.ca_file:
        sink.rule(
            "daemon.grpc.allowed_clients",
            "needs tls.ca_file: without it clients show no certificate, and their names are unknown",
            about=files,
        )
    if daemon.grpc_port and not is_loopback(daemon.grpc_host) and not grpc.insecure and not tls.ca_file:
        if tls.cert_file or tls.key_file:
            path, message = section, "write ca_file too, which clients' certificates must come from"
        else:
            path, message = "daemon.grpc_host", "write grpc.tls.cert_file, key_file and ca_file"
        sink.rule(
            path,
            f"gRPC on {_named(daemon.grpc_host)} is reached from other hosts and would obey anybody;"
            f" {message}, or listen on 127.0.0.1 (grpc.insecure: true permits it as it is)",
            about=("daemon.grpc", "daemon.grpc.insecure", "daemon.grpc_host", "daemon.grpc_port", *files),
        )


def _manager(sink: FaultSink, config: Config) -> None:
    tls, section = config.manager.tls, "manager.tls"
    names = tuple(f"{section}.{name}" for name in ("cert_file", "key_file", "ca_file", "server_name"))
    _pair(sink, section, tls.cert_file, tls.key_file)
    host = config.manager.address.rpartition(":")[0]
    plain = not tls.enabled and not tls.key_file
    if host and plain and not is_loopback(host) and not config.daemon.grpc.insecure:
        sink.rule(
            "manager.address",
            f"{host} is another host, and the link has no TLS; write manager.tls.ca_file (with cert_file and"
            " key_file), or daemon.grpc.insecure: true to go without",
            about=(section, "daemon.grpc", "daemon.grpc.insecure", *names),
        )


def _named(host: str) -> str:
    return host or "every interface"


def _collectors(sink: FaultSink, data: Mapping[str, Any], config: Config) -> None:
    textfile = config.collectors.textfile
    if textfile.enabled and not textfile.directory:
        path = "collectors.textfile.directory"
        sink.rule(path, "is missing; textfile is enabled and needs the directory of the .prom files")
    written = data.get("collectors", {})
    taken = {**dict.fromkeys(BUILT_IN_COLLECTORS, "a built-in collector"),
             **dict.fromkeys(written.get("plugins", {}), "a plug-in")}  # fmt: skip
    for index, collector in enumerate(written.get("exec", ())):
        name, path = collector.get("name"), f"collectors.exec[{index}]"
        if name in taken:
            sink.rule(f"{path}.name", f"{name} is the name of {taken[name]} already; names are unique")
        elif name is not None:
            taken[name] = path


def _numbers(sink: FaultSink, config: Config) -> None:
    resources, update = config.resources, config.update
    points = resources.history / resources.interval
    if points > MAX_HISTORY_POINTS:
        sink.rule(
            "resources.history",
            f"would keep {points:.0f} points of each agent, and {MAX_HISTORY_POINTS} is the most; write a"
            " shorter history or a longer interval",
            about=("resources.interval",),
        )
    if update.verify_period > update.verify_timeout:
        sink.rule(
            "update.verify_period",
            "is longer than verify_timeout: no update could ever be found healthy; write a shorter one",
            about=("update.verify_timeout",),
        )


def _agent(
    sink: FaultSink, path: str, agent: AgentConfig, daemon: DaemonConfig, written: Mapping[str, Any]
) -> None:
    if agent.socket_path != daemon.socket_path:
        _socket(sink, f"{path}.socket_path", agent.socket_path, "daemon.work_dir")
    if agent.socket_path == daemon.control_socket != daemon.socket_path:
        message = "is the daemon's control socket; heartbeats need another path"
        sink.rule(f"{path}.socket_path", message, about=("daemon.control_socket",))
    for name in sorted(OWN_VARIABLES & agent.env.keys()):
        sink.rule(f"{path}.env.{name}", "is set by the daemon itself; leave it out")
    if not agent.config_file:
        own_command = written.get("health_check", {}).get("command", ())
        for key, words in (("args", written.get("args", ())), ("health_check.command", own_command)):
            if any("{config_file}" in word for word in words):
                message = "names {config_file}, and the agent has none; write config_file"
                sink.rule(f"{path}.{key}", message, about=(f"{path}.config_file",))


def _agent_warnings(sink: FaultSink, path: str, agent: AgentConfig, written: Mapping[str, Any]) -> None:
    health = written.get("health_check", {})
    if health.get("heartbeat_timeout") and not PROFILES[agent.type].sends_heartbeats:
        sink.warn(
            f"{path}.health_check.heartbeat_timeout",
            f"{agent.type.value} never sends heartbeats; the timeout has no effect until its first heartbeat",
        )
    own = PROFILES[agent.type].health_check.get("http_endpoint")
    listens = "--web.listen-address=:9100"
    if own and agent.health_check.http_endpoint == own and "args" in written and listens not in agent.args:
        sink.warn(
            f"{path}.args",
            f"health asks {own}, the type's own endpoint; when these arguments make it listen elsewhere,"
            " write health_check.http_endpoint too",
        )
