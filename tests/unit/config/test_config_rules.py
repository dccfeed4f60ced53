"""Rules between keys, and warnings."""

from __future__ import annotations

import pytest

from daemon.config.rules import is_loopback
from daemon.errors import ConfigValidateError

TLS = "{cert_file: c, key_file: k}"
MUTUAL = "{cert_file: c, key_file: k, ca_file: a}"
LONG = "/" + "d" * 110


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        *(
            (f"agents: [{{id: {name}, type: custom, binary_path: /b}}]", "agents[0].id", "reserved name")
            for name in ("daemon", "agent", "start", "stop", "restart", "all")
        ),
        (
            f"daemon: {{socket_path: {LONG}}}",
            "daemon.socket_path",
            "has 111 bytes, and the system's limit is below 104",
        ),
        (f"daemon: {{control_socket: {LONG}}}", "daemon.control_socket", "below 104"),
        (f"daemon: {{control_socket: /{'c' * 103}}}", "daemon.control_socket", "has 104 bytes"),
        (
            f"daemon: {{work_dir: {LONG}, control_socket: /c}}",
            "daemon.socket_path",
            "write a shorter path here",
        ),
        ("daemon: {socket_path: /s, control_socket: /s}", "daemon.control_socket", "a path each"),
        (
            f"agents: [{{id: a, type: custom, binary_path: /b, socket_path: {LONG}}}]",
            "agents[0].socket_path",
            "below 104",
        ),
        (
            "daemon: {control_socket: /c}\nagents: [{id: a, type: custom, binary_path: /b, socket_path: /c}]",
            "agents[0].socket_path",
            "control socket",
        ),
        ("daemon: {http_port: 9091, grpc: {}}", "daemon.grpc_port", "a port each"),
        ("daemon: {http_tls: {cert_file: c}}", "daemon.http_tls.cert_file", "needs key_file"),
        ("daemon: {http_tls: {key_file: k}}", "daemon.http_tls.key_file", "needs cert_file"),
        (
            "daemon: {http_tls: {client_ca_file: k}}",
            "daemon.http_tls.client_ca_file",
            "TLS is off without them",
        ),
        (
            "daemon: {http_host: 0.0.0.0}",
            "daemon.http_host",
            "write http_tls.cert_file and http_tls.key_file",
        ),
        ("daemon: {http_host: '::'}", "daemon.http_host", "reached from other hosts"),
        ("daemon: {http_host: ''}", "daemon.http_host", "every interface is reached"),
        ("daemon: {http_host: host.example.com}", "daemon.http_host", "reached from other hosts"),
        (
            "daemon: {grpc_host: 0.0.0.0, grpc: {}}",
            "daemon.grpc_host",
            "write grpc.tls.cert_file, key_file and ca_file",
        ),
        (f"daemon: {{grpc_host: 0.0.0.0, grpc: {{tls: {TLS}}}}}", "daemon.grpc.tls", "write ca_file too"),
        ("daemon: {grpc_host: 10.0.0.1, grpc_port: 9191}", "daemon.grpc_host", "would obey anybody"),
        ("daemon: {grpc: {tls: {cert_file: c}}}", "daemon.grpc.tls.cert_file", "needs key_file"),
        ("daemon: {grpc: {tls: {ca_file: c}}}", "daemon.grpc.tls.ca_file", "TLS is off without them"),
        ("daemon: {grpc: {allowed_clients: [m]}}", "daemon.grpc.allowed_clients", "needs tls.ca_file"),
        ("manager: {address: 'm.example.com:9090'}", "manager.address", "the link has no TLS"),
        ("manager: {tls: {key_file: k}}", "manager.tls.key_file", "needs cert_file"),
        ("collectors: {textfile: {enabled: true}}", "collectors.textfile.directory", "is missing"),
        (
            "collectors: {exec: [{name: cpu, command: [x]}]}",
            "collectors.exec[0].name",
            "a built-in collector already",
        ),
        (
            "collectors: {exec: [{name: x, command: [x]}, {name: x, command: [x]}]}",
            "collectors.exec[1].name",
            "the name of collectors.exec[0] already",
        ),
        (
            "collectors: {plugins: {x: {}}, exec: [{name: x, command: [x]}]}",
            "collectors.exec[0].name",
            "a plug-in",
        ),
        ("resources: {interval: 1ms, history: 24h}", "resources.history", "1000000 is the most"),
        (
            "update: {verify_timeout: 10s, verify_period: 11s}",
            "update.verify_period",
            "longer than verify_timeout",
        ),
        (
            "agents: [{id: a, type: custom, binary_path: /b, env: {HOSTDAEMON_MARK: x}}]",
            "agents[0].env.HOSTDAEMON_MARK",
            "set by the daemon itself",
        ),
        (
            "agents: [{id: a, type: custom, binary_path: /b, args: ['{config_file}']}]",
            "agents[0].args",
            "names {config_file}, and the agent has none",
        ),
        (
            "agents: [{id: a, type: custom, binary_path: /b, health_check: {command: [x, '{config_file}']}}]",
            "agents[0].health_check.command",
            "names {config_file}",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_faults(faults_of, text, path, message):
    found = faults_of(text)
    assert list(found) == [path]
    assert message in found[path]


@pytest.mark.parametrize(
    "text",
    [
        f"daemon: {{http_host: 0.0.0.0, http_tls: {TLS}}}",
        "daemon: {http_host: 0.0.0.0, http_port: 0}",
        "daemon: {http_host: '::1'}",
        "daemon: {http_host: localhost}",
        f"daemon: {{grpc_host: 0.0.0.0, grpc: {{tls: {MUTUAL}, allowed_clients: [m]}}}}",
        "daemon: {grpc_host: 0.0.0.0, grpc: {insecure: true}}",
        "daemon: {grpc_host: 0.0.0.0}",
        "daemon: {grpc_host: 0.0.0.0, grpc_port: 0, grpc: {}}",
        "daemon: {http_port: 9091, http_host: 127.0.0.1, grpc_host: 127.0.0.2, grpc: {}}",
        "daemon: {http_port: 0, grpc_port: 0}",
        "manager: {address: '127.0.0.1:9090'}",
        "manager: {address: '[::1]:9090'}",
        "manager: {address: 'm.example.com:9090', tls: {ca_file: a}}",
        "manager: {address: 'm.example.com:9090', tls: {server_name: m}}",
        "daemon: {grpc: {insecure: true}}\nmanager: {address: 'm.example.com:9090'}",
        "agents: [{id: a, type: custom, binary_path: /b, restart: {backoff_base: 60s, backoff_max: 5s}}]",
        f"daemon: {{socket_path: /{'s' * 102}}}",
        "agents: [{id: A.b_c-9, type: custom, binary_path: /b}]",
    ],
)
def test_keys_that_go_together_are_accepted(load_text, text):
    assert load_text(text).warnings == ()


def test_the_limit_of_socket_paths_counts_bytes(faults_of):
    assert "has 105 bytes" in faults_of(f"daemon: {{socket_path: /{'ö' * 52}}}")["daemon.socket_path"]


def test_a_too_long_default_socket_is_placed_at_the_section_that_was_written(load_text):
    with pytest.raises(ConfigValidateError) as caught:
        load_text(f"manager: {{}}\ndaemon:\n  work_dir: {LONG}\n")
    assert {(f.path, f.line) for f in caught.value.details["faults"]} == {
        ("daemon.socket_path", 3),
        ("daemon.control_socket", 3),
    }


def test_rules_do_not_build_on_faulty_values(faults_of):
    found = faults_of("daemon: {http_host: 0.0.0.0, http_tls: {cert_file: [x], key_file: k}, work_dir: 7}")
    assert set(found) == {"daemon.http_tls.cert_file", "daemon.work_dir"}


@pytest.mark.parametrize("kind", ["filebeat", "telegraf", "node_exporter"])
def test_a_heartbeat_timeout_on_a_type_that_sends_none_warns(load_text, kind):
    agent = f"agents: [{{id: a, type: {kind}, binary_path: /b, health_check: {{heartbeat_timeout: %s}}}}]"
    (warning,) = load_text(agent % "90s").warnings
    assert warning.path == "agents[0].health_check.heartbeat_timeout"
    assert "the timeout has no effect until its first heartbeat" in warning.message
    assert load_text(agent % "0").warnings == ()


def test_a_heartbeat_timeout_in_the_defaults_does_not_warn(load_text):
    defaults = "agent_defaults: {health_check: {heartbeat_timeout: 9s}}"
    assert load_text(f"{defaults}\nagents: [{{id: a, type: telegraf, binary_path: /b}}]").warnings == ()


@pytest.mark.parametrize(
    ("written", "warns"),
    [
        ("args: ['--web.listen-address=:9200']", True),
        ("args: ['--web.listen-address=:9100', -x]", False),
        (
            "args: ['--web.listen-address=:9200'], health_check: {http_endpoint: 'http://127.0.0.1:9200/'}",
            False,
        ),
        ("name: x", False),
    ],
)
def test_a_node_exporter_moved_away_from_its_endpoint_warns(load_text, written, warns):
    loaded = load_text(f"agents: [{{id: a, type: node_exporter, binary_path: /b, {written}}}]")
    assert [warning.path for warning in loaded.warnings] == (["agents[0].args"] if warns else [])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("LocalHost", True),
        ("localhost.", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
    ],
)
def test_what_counts_as_loopback(host, loopback):
    assert is_loopback(host) is loopback
