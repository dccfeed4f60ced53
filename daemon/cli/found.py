"""Agents that are installed on this host, and a configuration for them as text; pure but for the look-up.

Used by ``hostctl init``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

EXTRA_PLACES = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/opt/homebrew/bin")
"""Looked at after PATH: an ordinary user's has no sbin, where redis-server and collectd are not far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """An agent hostctl knows how to run.

    Attributes:
        id, type: as in the configuration.
        about: what it is, for the comment.
        binaries: absolute paths and names, the best first.
        config_files: where its own configuration is; the first that can be read is written.
        needs_config: without a readable one the agent is written as ``enabled: false``.
        lines: further lines of YAML, below ``id``; ``{config_file}`` stays, the daemon fills it in.
        port: that it listens on, 0 for none: another process there is warned of.
        unit: its own systemd unit, which would run it twice.
    """

    id: str
    type: str
    about: str
    binaries: tuple[str, ...]
    config_files: tuple[str, ...] = ()
    needs_config: bool = False
    lines: tuple[str, ...] = ()
    port: int = 0
    unit: str = ""


KNOWN = (
    Known(
        id="node-exporter", type="node_exporter", about="metrics of this host for Prometheus",
        binaries=("prometheus-node-exporter", "node_exporter"), port=9100, unit="prometheus-node-exporter",
    ),
    Known(
        id="telegraf", type="telegraf", about="Telegraf", binaries=("telegraf",), needs_config=True,
        config_files=("/etc/telegraf/telegraf.conf",), unit="telegraf",
    ),
    Known(
        id="filebeat", type="filebeat", about="the log shipper of the Elastic Stack", needs_config=True,
        # Debian's /usr/bin/filebeat is a script that brings paths of its own.
        binaries=("/usr/share/filebeat/bin/filebeat", "filebeat"),
        config_files=("/etc/filebeat/filebeat.yml",), unit="filebeat",
    ),
    Known(
        id="redis", type="custom", about="Redis, in memory alone; write its own configuration file into args",
        binaries=("redis-server",), port=6379, unit="redis-server",
        lines=(
            'args: ["--port", "6379", "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]',
            "health_check: {tcp: \"127.0.0.1:6379\"}",
        ),
    ),
    Known(
        id="collectd", type="custom", about="collectd, in the foreground (-f)", binaries=("collectd",),
        config_files=("/etc/collectd/collectd.conf", "/etc/collectd.conf"), needs_config=True,
        lines=('args: ["-f", "-C", "{config_file}"]',), unit="collectd",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A known agent and where it is.

    Attributes:
        binary: absolute.
        config_file: absolute; empty where none can be read.
    """

    known: Known
    binary: str
    config_file: str

    @property
    def enabled(self) -> bool:
        """Whether it can be started as it is."""
        return bool(self.config_file) or not self.known.needs_config


def installed(which: Callable[[str], str | None], readable: Callable[[str], bool]) -> tuple[Found, ...]:
    """The known agents that are here.

    Args:
        which: the absolute path of an executable, None where there is none; for paths too.
        readable: whether a file can be read.
    """
    found = []
    for known in KNOWN:
        binary = next(filter(None, map(which, known.binaries)), None)
        if binary is not None:
            config_file = next(filter(readable, known.config_files), "")
            found.append(Found(known=known, binary=binary, config_file=config_file))
    return tuple(found)


def configuration(
    found: Sequence[Found], *, work_dir: str, log_file: str, schema: str = "", busy_ports: Sequence[int] = (),
    http_port: int = 8084, check: str = "hostctl config check FILE",
) -> str:
    """A commented configuration of these agents.

    Args:
        found: the agents; none makes a file with an example in comments.
        work_dir, log_file: as written; an empty log file is stderr.
        schema: path or URL of the JSON schema for editors; empty: no modeline.
        busy_ports: that somebody listens on already.
        http_port: a free one for the HTTP API; 0 for none.
        check: the command that checks this file, for a comment.
    """
    lines = [f"# yaml-language-server: $schema={schema}"] if schema else []
    lines += [
        "# The configuration of hostdaemon, written by `hostctl init`. Every key: docs/configuration.md.",
        f"# {check}    finds every fault of this file at once",
        "# Saving it is enough: the daemon notices, and restarts only the agents whose keys changed.",
        "",
        "daemon:",
        f"  work_dir: {_text(work_dir)}   # state, logs and sockets",
        f"  log_file: {_text(log_file)}   # empty: stderr",
        '  pid_file: ""',
        f"  http_port: {http_port}   # API and metrics, on 127.0.0.1; 0: off",
        "  # control_group: adm   # a group whose members may use hostctl",
        "",
        "# What an agent does not say itself.",
        "agent_defaults:",
        "  restart: {policy: always, backoff_base: 10s, max_retries: 10}",
        "  logs: {max_size: 50MiB, max_files: 5}",
        "",
        "# How often the host and the agents are measured; without these lines once a minute.",
        "collectors: "
        "{cpu: {interval: 10s}, memory: {interval: 10s}, disk: {interval: 10s}, network: {interval: 10s}}",
        "resources: {interval: 15s, history: 24h}",
        "",
    ]
    if not found:
        lines += [
            "# No agent that hostctl knows was found on this host. One of your own would be:",
            "# agents:",
            "#   - id: api",
            "#     type: custom                      # other types bring their arguments",
            "#     binary_path: /usr/local/bin/api   # it must stay in the foreground",
            '#     args: ["--port", "9000"]',
            "#     health_check: {http_endpoint: http://127.0.0.1:9000/health}",
            "agents: []",
        ]
        return "\n".join(lines) + "\n"
    lines.append("agents:")
    for each in found:
        lines += _agent(each, busy_ports)
    return "\n".join(lines) + "\n"


def _agent(each: Found, busy_ports: Sequence[int]) -> list[str]:
    known = each.known
    lines = [f"  # {known.about}"]
    if known.unit:
        lines.append(f"  # Its own unit would run it twice: systemctl disable --now {known.unit}")
    lines += [f"  - id: {known.id}", f"    type: {known.type}", f"    binary_path: {_text(each.binary)}"]
    if each.config_file:
        lines.append(f"    config_file: {_text(each.config_file)}")
    elif known.config_files:
        lines.append(f"    # config_file: {known.config_files[0]}   # not there, or not readable")
    lines += [f"    {line}" for line in known.lines if each.config_file or "{config_file}" not in line]
    if not each.enabled:
        lines.append("    enabled: false   # it needs its own configuration first")
    elif known.port in busy_ports:
        lines.append(f"    enabled: false   # somebody listens on its port {known.port} already")
    lines.append("")
    return lines


def _text(value: str) -> str:
    """A YAML scalar: JSON's quotes are YAML's, and paths need none."""
    plain = bool(value) and all(char.isalnum() or char in "/._-" for char in value) and value.isascii()
    return value if plain else json.dumps(value)


def place(name: str, search: Callable[[str, str | None], str | None]) -> str | None:
    """Where a binary is: a path if it can be run, a name on PATH and then in :data:`EXTRA_PLACES`.

    Args:
        name: a name or an absolute path.
        search: ``shutil.which`` with a name and a path to search.
    """
    hit = search(name, None)
    if hit is None and "/" not in name:
        hit = search(name, ":".join(EXTRA_PLACES))
    return str(Path(hit).absolute()) if hit else None
