"""load: what it returns, what it refuses, and how the faults read."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from daemon.config.fault import MAX_FAULTS, Fault, FaultSink, parent
from daemon.config.load import load
from daemon.config.schema import Config
from daemon.config.source import MAX_FILE_BYTES
from daemon.errors import ConfigLoadError, ConfigValidateError

ONE = "agents: [{id: a, type: custom, binary_path: /bin/a}]\n"


def test_a_small_file_gets_every_default(load_text):
    loaded = load_text("daemon: {}\n")
    daemon = loaded.config.daemon
    assert (daemon.http_host, daemon.http_port, daemon.grpc_port) == ("127.0.0.1", 8084, 0)
    assert daemon.work_dir == "/var/lib/daemon"
    assert daemon.socket_path == "/var/lib/daemon/run/heartbeat.sock"
    assert daemon.control_socket == "/var/lib/daemon/run/control/control.sock"
    assert loaded.config.update.download_dir == "/var/lib/daemon/downloads"
    assert loaded.config.update.backup_dir == "/var/lib/daemon/backups"
    assert loaded.config.agents == ()
    assert loaded.config.manager == Config().manager
    assert loaded.warnings == ()


def test_the_digest_the_path_and_the_positions_are_told(load_text, tmp_path):
    loaded = load_text(ONE)
    assert loaded.text_digest == hashlib.sha256(ONE.encode()).hexdigest()
    assert loaded.path == tmp_path / "daemon.yaml"
    assert loaded.positions["agents[0].binary_path"] == (1, 45)
    assert loaded.agent_paths == {"a": "agents[0]"}


def test_all_faults_come_at_once_with_their_places(load_text, tmp_path):
    text = """\
daemon:
  log_levl: info
  http_port: 70000
agents:
  - id: a
    type: custom
    binary_path: /bin/a
    restart: {policy: sometimes, backoff_max: 0s}
  - id: a
    type: filebeats
  - 7
manger: {}
"""
    with pytest.raises(ConfigValidateError) as caught:
        load_text(text)
    file = tmp_path / "daemon.yaml"
    faults = caught.value.details["faults"]
    assert [str(fault) for fault in faults] == [
        f"{file}:2:3: daemon.log_levl: unknown key; did you mean log_level?",
        f"{file}:3:14: daemon.http_port: must be 0 to 65535, not 70000",
        f'{file}:8:23: agents[0].restart.policy: "sometimes" will not do; write always, on-failure or never',
        f"{file}:8:47: agents[0].restart.backoff_max: must be > 0, not 0s",
        f"{file}:9:5: agents[1].binary_path: is missing; it has no default",
        f"{file}:9:9: agents[1].id: a is the id of agents[0] already; ids are unique",
        f'{file}:10:11: agents[1].type: "filebeats" will not do;'
        " write filebeat, telegraf, node_exporter or custom",
        f'{file}:11:5: agents[2]: must be a mapping of keys, not "7"',
        f"{file}:12:1: manger: unknown key; did you mean manager?",
    ]
    assert "9 faults" in caught.value.message
    assert str(faults[0]) in caught.value.message
    assert caught.value.code.value == "D1002"


def test_a_single_fault_is_the_message_itself(load_text):
    with pytest.raises(ConfigValidateError) as caught:
        load_text("daemon: {http_port: x}\n")
    assert caught.value.message == str(caught.value.details["faults"][0])


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (
            "agents:\n- {id: a, type: custom, binary_path: /a, interval: 3}",
            "agents[0].interval",
            "unknown key here; it belongs in agents[].health_check",
        ),
        ("http_port: 3", "http_port", "unknown key here; it belongs in daemon"),
        ("daemon: {zzzzzz: 3}", "daemon.zzzzzz", "known here: id, log_level"),
        ("daemon: {Log-Level: info}", "daemon.Log-Level", "did you mean log_level?"),
        ("on: {}", "on", "YAML reads the bare word on as true"),
        ("agents: [{heartbeat_from_start: true}]", "agents[0].heartbeat_from_start", "unknown key"),
        (
            "daemon: {http_port: 1, http_port: 2}",
            "daemon.http_port",
            "is written twice; the first one is in line 1",
        ),
        ("daemon: {labels: {a: x, a: y}}", "daemon.labels.a", "written twice"),
        ("daemon: {[a]: x}", "daemon", "a key must be a word"),
        ("agents: {a: {}}", "agents", "must be a list (each entry begins with a dash), not a mapping"),
        ("daemon: []", "daemon", "must be a mapping of keys, not a list"),
        ("just text", "", 'must be a mapping of keys, not "just text"'),
        ("daemon: {labels: x}", "daemon.labels", "must be a mapping of names to text"),
        ("daemon: {id: [x]}", "daemon.id", "must be a single value, not a list"),
        ("agents: [~]", "agents[0]", "must be a mapping of keys, not nothing"),
        ("update: {allowed_urls: x}", "update.allowed_urls", "must be a list"),
        ("update: {allowed_urls: ['']}", "update.allowed_urls[0]", "must not be empty"),
        ("daemon: {log_file: }", "daemon.log_file", "has no value"),
        ("collectors: {exec: [{name: x, command: []}]}", "collectors.exec[0].command", "must not be empty"),
        ("collectors: {plugins: {x: 7}}", "collectors.plugins.x", "must be a mapping of options"),
        ("collectors: {plugins: 7}", "collectors.plugins", "must be a mapping of plug-in names"),
        ("collectors: {plugins: {x: {y: 1:30}}}", "collectors.plugins.x.y", "to base 60"),
        ("collectors: {plugins: {x: {on: 1}}}", "collectors.plugins.x.on", "put the name in quotes"),
        ('daemon: {labels: {"a b.c": {}}}', 'daemon.labels["a b.c"]', "must be a single value"),
        ("daemon: {labels: {no: x}}", "daemon.labels.no", "put the name in quotes"),
        ("agents: [{env: {1A: x}}]", "agents[0].env.1A", "cannot name a variable"),
        ('daemon: {"a\\0": x}', "daemon", "cannot be stored"),
        ("", "", "the file says nothing"),
        ("# only a comment\n", "", "the file says nothing"),
        ("~", "", "the file says nothing"),
    ],
)
def test_wrong_keys_and_shapes_are_explained(faults_of, text, path, message):
    assert message in faults_of(text)[path]


def test_a_section_list_or_map_without_a_value_counts_as_not_written(load_text):
    text = (
        "daemon: {labels: , grpc: , grpc_port: null}\nagents:\nmanager:\nagent: {}\n"
        "collectors: {plugins: {x: }}\n"
    )
    loaded = load_text(text)
    assert loaded.config.agents == ()
    assert loaded.config.daemon.grpc_port == 0
    assert loaded.config.collectors.plugins == {"x": {}}


def test_anchors_and_merge_keys_work_and_place_faults_where_they_are_written(load_text, faults_of):
    text = """\
agents:
  - &base {id: a, type: custom, binary_path: /bin/a, restart: &r {max_retries: 3}}
  - {<<: *base, id: b, logs: {max_files: 2}}
  - {id: c, type: custom, binary_path: /bin/c, restart: *r}
"""
    agents = load_text(text).config.agents
    assert [agent.restart.max_retries for agent in agents] == [3, 3, 3]
    assert agents[1].binary_path == "/bin/a"
    assert set(faults_of(text.replace("3}", "x}"))) == {f"agents[{n}].restart.max_retries" for n in range(3)}


def test_plug_in_options_keep_their_types(load_text):
    text = "collectors: {plugins: {x: {a: 1, b: 2.5, c: yes, d: text, e: [1, {f: null}], g: 'on'}}}"
    options = load_text(text).config.collectors.plugins["x"]
    assert options == {"a": 1, "b": 2.5, "c": True, "d": "text", "e": [1, {"f": None}], "g": "on"}


def test_the_number_of_faults_is_bounded(load_text):
    with pytest.raises(ConfigValidateError) as caught:
        load_text("".join(f"k{n}: x\n" for n in range(MAX_FAULTS + 50)))
    faults = caught.value.details["faults"]
    assert len(faults) == MAX_FAULTS + 1
    assert "50 more" in faults[-1].message


@pytest.mark.parametrize(
    ("raw", "line", "column", "message"),
    [
        (b"a: [\n", 2, 1, "flow"),
        (b"daemon: {}\nx: \xff\n", 2, 4, "byte 0xff is not UTF-8"),
        ("daemon: {}".encode("utf-16"), 1, 1, "not UTF-8"),
        (b"a: !!python/name:os.system\n", 1, 4, "refused"),
    ],
)
def test_what_is_not_yaml_is_d1001_with_its_place(load_text, tmp_path, raw, line, column, message):
    with pytest.raises(ConfigLoadError) as caught:
        load_text(raw)
    assert caught.value.message.startswith(f"{tmp_path / 'daemon.yaml'}:{line}:{column}: ")
    assert message in caught.value.message
    assert (caught.value.details["line"], caught.value.details["column"]) == (line, column)


def test_a_byte_order_mark_is_no_part_of_the_text(load_text):
    assert load_text(b"\xef\xbb\xbf" + ONE.encode()).config.agents[0].id == "a"


def test_a_missing_file_is_d1001(tmp_path):
    with pytest.raises(ConfigLoadError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml")


def test_a_directory_a_fifo_and_an_impossible_path_are_d1001_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("x\0y")):
        with pytest.raises(ConfigLoadError):
            load(path)


def test_a_file_too_large_is_d1001(load_text):
    with pytest.raises(ConfigLoadError, match="larger than 4 MiB"):
        load_text(b"#" * (MAX_FILE_BYTES + 1))


def test_a_file_anybody_may_write_warns(load_text, tmp_path):
    load_text(ONE)
    (tmp_path / "daemon.yaml").chmod(0o666)
    warnings = load(tmp_path / "daemon.yaml").warnings
    assert ["anybody may write" in warning.message for warning in warnings] == [True]


def test_the_default_environment_and_interpreter_are_our_own(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(f"agents: [{{id: a, type: custom, binary_path: {Path(sys.executable).name}}}]")
    file.chmod(0o644)
    assert load(file).config.agents[0].binary_path == str(Path(sys.executable).absolute())


def test_a_fault_without_a_path_reads_well():
    assert str(Fault(file="f", line=1, column=2, path="", message="m")) == "f:1:2: m"


@pytest.mark.parametrize(
    ("path", "above"),
    [("a.b", "a"), ("a[2].b", "a[2]"), ("a[2]", "a"), ('a.b["x.y [z"]', "a.b"), ("a", ""), ("", "")],
)
def test_the_parent_of_a_path(path, above):
    assert parent(path) == above


def test_a_rule_is_silent_where_it_saw_a_default_instead_of_a_faulty_value():
    sink = FaultSink("f")
    sink.add((1, 1), "a.b", "is wrong")
    sink.rule("a.c", "needs b", about=("a.b",))
    sink.rule("a.d", "is alone")
    assert [fault.path for fault in sink.faults()] == ["a.b", "a.d"]
