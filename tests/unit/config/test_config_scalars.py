"""Scalars by kind, and the traps of YAML 1.1."""

from __future__ import annotations

import pytest
import yaml

from daemon.config import tree
from daemon.errors import ConfigValidateError

AGENT = "agents: [{id: a, type: custom, binary_path: /bin/a, %s}]"


@pytest.mark.parametrize(
    ("written", "path", "message"),
    [
        (
            "restart: {policy: no}",
            "restart.policy",
            "YAML reads the bare word no as false; write always, on-failure or never",
        ),
        ("name: on", "name", 'YAML reads the bare word on as true; put it in quotes: "on"'),
        (
            "umask: 022",
            "umask",
            'YAML reads 022 as the octal number 18; put the octal digits in quotes: "022"',
        ),
        ("umask: 22", "umask", 'YAML reads 22 as a number; put the octal digits in quotes: "22"'),
        ("umask: '9'", "umask", "must be three octal digits"),
        ("umask: '1777'", "umask", "must be three octal digits"),
        (
            "stop_timeout: 1:30",
            "stop_timeout",
            "YAML reads 1:30 as a number to base 60; write units, such as 1m30s",
        ),
        ("stop_timeout: 1:30.5", "stop_timeout", "to base 60"),
        ("stop_timeout: 010", "stop_timeout", "octal number 8"),
        ("stop_timeout: on", "stop_timeout", "must be a duration; YAML reads the bare word on as true"),
        ("stop_timeout: 0s", "stop_timeout", "must be > 0, not 0s"),
        ("stop_timeout: -1", "stop_timeout", "must not be negative"),
        ("stop_timeout: .inf", "stop_timeout", "finite"),
        ("stop_timeout: .nan", "stop_timeout", "finite"),
        ("stop_timeout: 2026-11-20", "stop_timeout", "YAML reads 2026-11-20 as a date"),
        ("env: {V: 1.10}", "env.V", 'YAML reads 1.10 as the number 1.1; put it in quotes: "1.10"'),
        ("env: {V: yes}", "env.V", 'put it in quotes: "yes"'),
        ("env: {V: 0x1F}", "env.V", 'put it in quotes: "0x1F"'),
        ("env: {V: 1_000}", "env.V", "put it in quotes"),
        ("env: {V: ~}", "env.V", "has no value"),
        ("env: {V: 2026-11-20}", "env.V", "as a date"),
        (
            "limits: {nofile: 0777}",
            "limits.nofile",
            "YAML reads 0777 as the octal number 511; write it in plain decimal digits",
        ),
        ("limits: {nofile: 10:00}", "limits.nofile", "to base 60"),
        ("limits: {nofile: '7'}", "limits.nofile", 'not the text "7"; take the quotes away'),
        (
            "limits: {nofile: 7.5}",
            "limits.nofile",
            "must be a whole number; YAML reads 7.5 as the number 7.5",
        ),
        ("limits: {nofile: many}", "limits.nofile", 'must be a whole number, not "many"'),
        ("limits: {nofile: 99999999999999999999999}", "limits.nofile", "is beyond 64 bits"),
        ("limits: {nofile: -1}", "limits.nofile", "must be 0 to"),
        ("enabled: 'true'", "enabled", 'must be true or false, not the text "true"; take the quotes away'),
        ("enabled: 1", "enabled", "must be true or false, not 1"),
        ("restart: {jitter: 1.5}", "restart.jitter", "must be 0 to 1, not 1.5"),
        ("restart: {jitter: '0.5'}", "restart.jitter", "take the quotes away"),
        ("restart: {jitter: half}", "restart.jitter", 'must be a number, not "half"'),
        ("restart: {jitter: 1:30.0}", "restart.jitter", "finite number in decimal digits"),
        ("restart: {jitter: .inf}", "restart.jitter", "finite"),
        ("restart: {max_retries: -3}", "restart.max_retries", "must be 0 to"),
        ("health_check: {cpu_threshold: -3}", "health_check.cpu_threshold", "must be >= 0, not -3"),
        ("health_check: {memory_threshold: 5M}", "health_check.memory_threshold", "is not a size"),
        ("health_check: {http_endpoint: 'ftp://x/'}", "health_check.http_endpoint", "must be a URL"),
        ("health_check: {http_endpoint: 'http://[::1/'}", "health_check.http_endpoint", "must be a URL"),
        ("health_check: {http_endpoint: 'http://h:99999/'}", "health_check.http_endpoint", "must be a URL"),
        ("health_check: {http_endpoint: 'http://h/a b'}", "health_check.http_endpoint", "must be a URL"),
        ("health_check: {tcp: '9100'}", "health_check.tcp", "must be host:port"),
        ("health_check: {tcp: 'h:0'}", "health_check.tcp", "must be host:port"),
        ("health_check: {tcp: '::1:80'}", "health_check.tcp", "must be host:port"),
        ("stop_signal: NOPE", "stop_signal", '"NOPE" is no signal of this system'),
        ("stop_signal: 15", "stop_signal", "must be a name such as TERM, not the number 15"),
        ("user: 'a b'", "user", "write a user name"),
        ("user: -x", "user", "write a user name"),
        ("config_file: ~/x", "config_file", "~ is not expanded"),
        ('config_file: "a\\nb"', "config_file", "line break"),
        ('config_file: "a\\0b"', "config_file", "NUL"),
        ("args: [{}]", "args[0]", "must be a single value, not a mapping"),
        ("args: [no]", "args[0]", 'put it in quotes: "no"'),
    ],
)
def test_a_value_that_means_something_else_is_refused_with_the_way_out(faults_of, written, path, message):
    found = faults_of(AGENT % written)
    assert list(found) == [f"agents[0].{path}"]
    assert message in found[f"agents[0].{path}"]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("agents: [{id: 7, type: custom, binary_path: /a}]", "agents[0].id", 'put it in quotes: "7"'),
        ("agents: [{id: ../x, type: custom, binary_path: /a}]", "agents[0].id", "write 1 to 63 letters"),
        ("agents: [{id: '', type: custom, binary_path: /a}]", "agents[0].id", "write 1 to 63 letters"),
        (
            f"agents: [{{id: {'a' * 64}, type: custom, binary_path: /a}}]",
            "agents[0].id",
            "write 1 to 63 letters",
        ),
        ('agents: [{id: "a\\n", type: custom, binary_path: /a}]', "agents[0].id", "write 1 to 63 letters"),
        ("agents: [{id: a, type: custom, binary_path: ''}]", "agents[0].binary_path", "must not be empty"),
        ("agents: [{id: a, type: custom, binary_path: ..}]", "agents[0].binary_path", "names a directory"),
        (
            "agents: [{id: a, type: custom, binary_path: /usr/bin/}]",
            "agents[0].binary_path",
            "names a directory",
        ),
        ("daemon: {http_host: 'a b'}", "daemon.http_host", "neither an IP address nor a host name"),
        ("daemon: {http_host: 127.0.0.300}", "daemon.http_host", "neither an IP address nor a host name"),
        ("daemon: {http_port: 65536}", "daemon.http_port", "must be 0 to 65535"),
        ("daemon: {log_level: off}", "daemon.log_level", "write debug, info, warn or error"),
        ("manager: {address: 'h'}", "manager.address", "must be host:port"),
        ("collectors: {disk: {mount_points: [var]}}", "collectors.disk.mount_points[0]", "absolute path"),
        ("collectors: {disk: {mount_points: ['']}}", "collectors.disk.mount_points[0]", "must not be empty"),
        ("update: {max_backups: 0}", "update.max_backups", "must be 1 to 1000"),
    ],
)
def test_other_values_out_of_their_form(faults_of, text, path, message):
    assert message in faults_of(text)[path]


def test_values_in_their_forms_are_read(load_text):
    text = AGENT % (
        "umask: '0027', stop_signal: sigint, stop_timeout: 1m30s, start_seconds: 500ms, enabled: off,"
        " limits: {nofile: 65_536, core: 0x10}, args: [-p, 8081, 'on', -1, ''], env: {A: 1, B: '', _C: a=b},"
        " user: '1000', restart: {jitter: 1, slow_retry: 0}, health_check: {cpu_threshold: 250.5,"
        " tcp: '[::1]:80', memory_threshold: 1.5KiB, command: [sh, '{work_dir}']}"
    )
    agent = load_text(text).config.agents[0]
    assert (agent.umask, agent.stop_signal, agent.stop_timeout, agent.start_seconds) == (
        0o027,
        "INT",
        90.0,
        0.5,
    )
    assert agent.enabled is False
    assert (agent.limits.nofile, agent.limits.core) == (65536, 16)
    assert agent.args == ("-p", "8081", "on", "-1", "")
    assert agent.env == {"A": "1", "B": "", "_C": "a=b"}
    assert agent.user == "1000"
    assert (agent.restart.jitter, agent.restart.slow_retry) == (1.0, 0.0)
    assert (agent.health_check.cpu_threshold, agent.health_check.memory_threshold) == (250.5, 1536)
    assert agent.health_check.command == ("sh", "/var/lib/daemon/agents/a")


def test_huge_digit_strings_are_refused_quickly_and_in_few_words(faults_of):
    digits = "1" * 10_000
    text = f"daemon: {{http_port: {digits}, heartbeat: {{max_rate: {digits}.5}}}}\n? 0{'7' * 10_000}\n: x\n"
    found = faults_of(text)
    assert len(found) == 3
    assert all(len(message) < 300 and len(path) < 200 for path, message in found.items())


def test_half_a_surrogate_pair_never_gets_in(load_text, monkeypatch):
    monkeypatch.setattr(tree, "_LOADER", yaml.SafeLoader)  # lets such an escape pass, where libyaml does not
    with pytest.raises(ConfigValidateError, match="surrogate"):
        load_text('daemon: {log_file: "/x\\ud800"}')
