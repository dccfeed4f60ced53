"""The reload plan, the fingerprint of an agent's process, and the need for TLS."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from daemon.config.diff import AGENT_LIVE_KEYS, LIVE_KEYS, Effect, diff
from daemon.config.flat import walk
from daemon.config.schema import AgentConfig, Config
from daemon.config.spec_hash import spec_hash
from daemon.config.tls import needs_tls, tls_needs

BASE = """\
daemon: {work_dir: /w}
agents:
- {id: a, type: custom, binary_path: /b%s}
- {id: b, type: custom, binary_path: /b}
"""


def _effects(old, new):
    return {(change.agent, change.key): change.effect for change in diff(old.config, new.config)}


def test_the_same_file_changes_nothing(load_text):
    assert diff(load_text(BASE % "").config, load_text(BASE % "").config) == ()


def test_the_order_of_agents_means_nothing(load_text):
    one = load_text(
        "agents: [{id: a, type: custom, binary_path: /b}, {id: b, type: custom, binary_path: /b}]"
    )
    two = load_text(
        "agents: [{id: b, type: custom, binary_path: /b}, {id: a, type: custom, binary_path: /b}]"
    )
    assert diff(one.config, two.config) == ()


@pytest.mark.parametrize(
    ("written", "key"),
    [
        (", name: x", "name"),
        (", start_seconds: 2s", "start_seconds"),
        (", stop_signal: INT", "stop_signal"),
        (", stop_timeout: 1s", "stop_timeout"),
        (", health_check: {interval: 1s}", "health_check.interval"),
        (", restart: {policy: never}", "restart.policy"),
        (", logs: {compress: false}", "logs.compress"),
    ],
)
def test_live_keys_are_applied_without_a_restart(load_text, written, key):
    old, new = load_text(BASE % ""), load_text(BASE % written)
    assert _effects(old, new) == {("a", key): Effect.LIVE}
    assert spec_hash(old.config.agents[0]) == spec_hash(new.config.agents[0])


@pytest.mark.parametrize(
    ("written", "key"),
    [
        (", args: [x]", "args"),
        (", env: {A: b}", "env"),
        (", user: root", "user"),
        (", group: root", "group"),
        (", umask: '077'", "umask"),
        (", limits: {nofile: 9}", "limits.nofile"),
        (", work_dir: /x", "work_dir"),
        (", socket_path: /s", "socket_path"),
        (", version_command: [x]", "version_command"),
    ],
)
def test_other_keys_restart_that_agent_alone_and_change_its_fingerprint(load_text, written, key):
    old, new = load_text(BASE % ""), load_text(BASE % written)
    assert _effects(old, new) == {("a", key): Effect.RESTART_AGENT}
    assert spec_hash(old.config.agents[0]) != spec_hash(new.config.agents[0])
    assert spec_hash(old.config.agents[1]) == spec_hash(new.config.agents[1])


def test_changes_tell_the_values(load_text):
    (change,) = diff(load_text(BASE % "").config, load_text(BASE % ", args: [x]").config)
    assert (change.old, change.new) == ((), ("x",))


def test_enabling_and_disabling_start_and_stop(load_text):
    on, off = load_text(BASE % ""), load_text(BASE % ", enabled: false")
    assert _effects(on, off) == {("a", "enabled"): Effect.STOP_AGENT}
    assert _effects(off, on) == {("a", "enabled"): Effect.START_AGENT}
    assert spec_hash(on.config.agents[0]) == spec_hash(off.config.agents[0])


def test_an_agent_that_does_not_run_on_both_sides_is_not_restarted(load_text):
    off, changed = load_text(BASE % ", enabled: false"), load_text(BASE % ", enabled: false, args: [x]")
    assert _effects(off, changed) == {("a", "args"): Effect.LIVE}
    on = load_text(BASE % ", args: [y]")
    assert _effects(off, on) == {("a", "args"): Effect.LIVE, ("a", "enabled"): Effect.START_AGENT}


def test_added_and_removed_agents_start_and_stop(load_text):
    none = load_text("daemon: {work_dir: /w}")
    two = load_text(BASE % ", enabled: false")
    assert _effects(none, two) == {("a", "enabled"): Effect.LIVE, ("b", "enabled"): Effect.START_AGENT}
    assert _effects(two, none) == {("a", "enabled"): Effect.STOP_AGENT, ("b", "enabled"): Effect.STOP_AGENT}
    assert [(c.old, c.new) for c in diff(none.config, two.config)] == [(None, False), (None, True)]


@pytest.mark.parametrize(
    ("written", "key", "effect"),
    [
        ("daemon: {log_level: debug}", "daemon.log_level", Effect.LIVE),
        ("daemon: {http_port: 1}", "daemon.http_port", Effect.RESTART_DAEMON),
        ("daemon: {labels: {a: b}}", "daemon.labels", Effect.RESTART_DAEMON),
        ("daemon: {heartbeat: {queue: 1}}", "daemon.heartbeat.queue", Effect.RESTART_DAEMON),
        ("manager: {report_interval: 1s}", "manager.report_interval", Effect.LIVE),
        ("manager: {queue: {max_age: 1h}}", "manager.queue.max_age", Effect.LIVE),
        ("collectors: {disk: {interval: 1s}}", "collectors.disk.interval", Effect.LIVE),
        ("collectors: {exec: [{name: x, command: [y]}]}", "collectors.exec", Effect.LIVE),
        ("collectors: {plugins: {x: {y: 1}}}", "collectors.plugins", Effect.LIVE),
        ("resources: {history: 1h}", "resources.history", Effect.LIVE),
        ("update: {allow_bare: true}", "update.allow_bare", Effect.LIVE),
    ],
)
def test_keys_beside_the_agents(load_text, written, key, effect):
    assert _effects(load_text("daemon: {}"), load_text(written)) == {("", key): effect}


def test_another_heartbeat_socket_restarts_the_daemon_and_every_agent_told_of_it(load_text):
    old, new = (
        load_text(BASE % ", socket_path: /own"),
        load_text((BASE % ", socket_path: /own").replace("/w", "/v")),
    )
    effects = _effects(old, new)
    assert effects[("", "daemon.socket_path")] is Effect.RESTART_DAEMON
    assert effects[("b", "socket_path")] is Effect.RESTART_AGENT
    assert ("a", "socket_path") not in effects


def test_the_live_keys_are_those_the_reference_marks():
    assert {"name", "start_seconds", "stop_signal", "stop_timeout", "heartbeat_from_start"} <= AGENT_LIVE_KEYS
    grouped = {key.split(".")[0] for key in AGENT_LIVE_KEYS if "." in key}
    assert grouped == {"health_check", "restart", "logs"}
    restarting = {key for key, _ in walk(AgentConfig)} - AGENT_LIVE_KEYS
    assert restarting == {
        "id",
        "type",
        "binary_path",
        "config_file",
        "work_dir",
        "socket_path",
        "enabled",
        "args",
        "env",
        "user",
        "group",
        "umask",
        "limits.nofile",
        "limits.core",
        "version_command",
    }
    assert {key for key in LIVE_KEYS if key.startswith("daemon.")} == {"daemon.log_level"}


def test_the_fingerprint_is_fixed_for_agents_that_run_across_an_upgrade():
    agent = msgspec.convert(
        {"id": "a", "type": "custom", "binary_path": "/b", "args": ["x"], "env": {"B": "1", "A": "2"}},
        AgentConfig,
    )
    spec = b'{"args":["x"],"binary_path":"/b","env":{"A":"2","B":"1"},"type":"custom"}'
    assert spec_hash(agent) == hashlib.sha256(spec).hexdigest()


HTTPS = "agents: [{id: a, type: custom, binary_path: /b, health_check: {http_endpoint: 'HTTPS://h/'}}]"


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("daemon: {http_tls: {cert_file: c, key_file: k}}", (("", "daemon.http_tls.cert_file"),)),
        (HTTPS, (("a", "health_check.http_endpoint"),)),
        ("resources: {webhook: 'https://h/x'}", (("", "resources.webhook"),)),
        ("update: {allowed_urls: ['http://h/', 'https://h/']}", (("", "update.allowed_urls"),)),
        ("daemon: {http_port: 0, http_tls: {cert_file: c, key_file: k}}", ()),
        ("manager: {address: 'm:1', tls: {ca_file: c}}", ()),
        ("daemon: {grpc: {tls: {cert_file: c, key_file: k, ca_file: a}}}", ()),
        ("update: {allowed_urls: ['http://https.example/']}", ()),
    ],
)
def test_what_needs_tls_in_this_process(load_text, text, needs):
    config = load_text(text).config
    assert tls_needs(config) == needs
    assert needs_tls(config) is bool(needs)


def test_a_first_need_for_tls_takes_a_restart_of_the_daemon(load_text):
    plain, webhook = load_text("daemon: {}"), load_text("resources: {webhook: 'https://h/'}")
    assert _effects(plain, webhook) == {("", "resources.webhook"): Effect.RESTART_DAEMON}
    both = load_text("resources: {webhook: 'https://h/', interval: 1s}\n" + HTTPS)
    assert _effects(webhook, both) == {
        ("", "resources.interval"): Effect.LIVE,
        ("a", "enabled"): Effect.START_AGENT,
    }
    assert _effects(plain, load_text(HTTPS)) == {
        ("a", "enabled"): Effect.START_AGENT,
        ("a", "health_check.http_endpoint"): Effect.RESTART_DAEMON,
    }


def test_tls_switched_on_by_the_port_is_told_too():
    tls = Config().daemon.http_tls.__class__(cert_file="/c", key_file="/k")
    off = msgspec.structs.replace(
        Config(), daemon=msgspec.structs.replace(Config().daemon, http_port=0, http_tls=tls)
    )
    on = msgspec.structs.replace(off, daemon=msgspec.structs.replace(off.daemon, http_port=8084))
    assert {change.key for change in diff(off, on)} == {"daemon.http_port", "daemon.http_tls.cert_file"}
