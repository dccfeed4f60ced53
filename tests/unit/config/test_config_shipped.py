"""The shipped configuration files load, and docs/configuration.md lists exactly the keys there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from daemon.config.document import Document, LegacyAgent
from daemon.config.keys import Kind, written_fields
from daemon.config.load import load
from daemon.config.schema import AgentConfig, Config

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"


def _keys(struct, prefix=""):
    """(key, field) of all the reference lists: sections opened, but for the repeated ones of agents."""
    for field in written_fields(struct).values():
        key = prefix + field.name
        if field.name == "agent" and not prefix:
            yield from _keys(LegacyAgent, "agent.")
        elif field.struct is not None and not prefix.startswith(("agent.", "agent_defaults.")):
            yield from _keys(field.struct, key + ("[]." if field.kind is Kind.SECTIONS else "."))
        else:
            yield key, field


FIELDS = dict(_keys(Document))


def _rows():
    """The cells of each row of the reference that describes a key."""
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        match = re.match(
            r"\| `((?:daemon|manager|agents?|agent_defaults|collectors|resources|update)[\[.][^`]*)` \|", line
        )
        if match:
            yield match[1], [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_production_file_is_all_defaults():
    loaded = load(CONFIGS / "daemon.yaml", environ={})
    assert loaded.warnings == ()
    default = load_default(loaded.config)
    assert loaded.config == default


def load_default(config):
    """The configuration of a file that says nothing, with the derived paths of the production file."""
    daemon = Config().daemon
    return Config(
        daemon=type(daemon)(
            socket_path=config.daemon.socket_path, control_socket=config.daemon.control_socket
        ),
        update=type(config.update)(
            download_dir="/var/lib/daemon/downloads", backup_dir="/var/lib/daemon/backups"
        ),
    )


def test_the_commented_agent_of_the_production_file_shows_every_key_at_its_default(load_text):
    lines = (CONFIGS / "daemon.yaml").read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("#  - id:"))
    shown = []
    for line in lines[start:]:
        if not line.startswith("#  "):
            break
        shown.append(line[1:])
    written = yaml.safe_load("\n".join(shown))[0]
    assert set(written) == set(written_fields(AgentConfig))
    for section in ("health_check", "restart", "logs", "limits"):
        assert set(written[section]) == set(written_fields(written_fields(AgentConfig)[section].struct))
    (agent,) = load_text("agents:\n" + "\n".join(shown)).config.agents
    plain = (
        "agents: [{id: node-exporter, type: node_exporter, binary_path: /usr/bin/prometheus-node-exporter}]"
    )
    (default,) = load_text(plain).config.agents
    assert agent.args == ()  # written, they replace the type's own
    for name in (
        "umask",
        "limits",
        "stop_timeout",
        "restart",
        "logs",
        "health_check",
        "version_command",
        "work_dir",
    ):
        assert getattr(agent, name) == getattr(default, name), name


def test_the_development_file_keeps_to_the_checkout():
    loaded = load(CONFIGS / "daemon.dev.yaml", environ={})
    daemon = loaded.config.daemon
    assert loaded.warnings == ()
    assert (daemon.work_dir, daemon.log_file, daemon.http_port) == (str(ROOT / "var"), "", 8084)
    assert daemon.pid_file == str(ROOT / "var/daemon.pid")
    one, two = loaded.config.agents
    assert (one.id, two.id) == ("hostagent-1", "hostagent-2")
    assert one.args == ("--config", str(CONFIGS / "agent.yaml"))
    assert (one.env, two.env) == ({"AGENT_HTTP_PORT": "8081"}, {"AGENT_HTTP_PORT": "8082"})
    assert one.heartbeat_from_start and one.health_check.heartbeat_timeout == 90.0
    assert loaded.config.collectors.cpu.interval == 10.0


def test_the_example_runs_the_three_known_agents():
    loaded = load(CONFIGS / "daemon.multi-agent.example.yaml", environ={})
    assert loaded.warnings == ()
    assert [agent.type.value for agent in loaded.config.agents] == ["filebeat", "telegraf", "node_exporter"]
    filebeat, telegraf, node_exporter = loaded.config.agents
    assert filebeat.args == (
        "-c",
        "/etc/filebeat/filebeat.yml",
        "-path.home",
        "/var/lib/daemon/agents/filebeat",
    )
    assert telegraf.args == ("--config", "/etc/telegraf/telegraf.conf")
    assert node_exporter.health_check.http_endpoint == "http://127.0.0.1:9100/metrics"


def test_the_reference_lists_exactly_the_keys_of_the_schema_in_order():
    assert [key for key, _ in _rows()] == list(FIELDS)


@pytest.mark.parametrize(("key", "cells"), list(_rows()))
def test_the_reference_tells_the_truth_of_each_key(load_text, key, cells):
    assert len(cells) == 7
    field = FIELDS[key]
    _, kind, unit, default, span, live, effect = cells
    assert effect
    assert kind
    assert (live == "yes") is (field.key.live or key.startswith("agent_defaults."))
    assert (default == "required") is field.required
    if field.kind in (Kind.DURATION, Kind.SIZE):
        assert unit == ("seconds" if field.kind is Kind.DURATION else "bytes")
    if field.choices:
        assert span == " ".join(f"`{choice}`" for choice in field.choices)
    if field.kind in (Kind.INT, Kind.NUMBER) and field.key.le is not None:
        assert span == f"{field.key.ge:g} to {field.key.le:.20g}"
    if not field.required:
        assert _read_default(load_text, key, default.strip("`")) == (
            None if field.key.nullable else field.default
        )


def _read_default(load_text, key, text):
    """What the default of the table comes to when it is written in a file."""
    if text == "null":
        return None
    section, _, rest = key.partition(".")
    names = rest.split(".")
    body = text
    for name in reversed(names):
        body = f"{{{name.removesuffix('[]')}: {f'[{body}]' if name.endswith('[]') else body}}}"
    if text == "{}":
        return yaml.safe_load(text) if FIELDS[key].struct is None else FIELDS[key].default
    if text in ("[]", '""'):  # an empty value may resolve to a derived one
        return () if text == "[]" else yaml.safe_load(text)
    if section == "agents[]":
        body = f"[{{id: a, type: custom, binary_path: /b, {body[1:-1]}}}]"
    body = body.replace("exec: [{", "exec: [{name: x, command: [y], ") if "exec[]" in key else body
    value = load_text(f"{section.removesuffix('[]')}: {body}").config
    for part in [section.removesuffix("[]"), *(name.removesuffix("[]") for name in names)]:
        value = getattr(value, part)
        if isinstance(value, tuple) and part in ("agents", "exec"):
            value = value[0]
    return value
