"""agent.yaml, its environment, and the parsers of its values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daemon.agentkit import values
from daemon.agentkit.config import KEYS, build_config, load_config, parse_yaml
from daemon.agentkit.values import ValueFault
from daemon.errors import ConfigLoadError, ConfigValidateError

BASE = Path("/etc/x")
CWD = Path("/run/y")
SHIPPED = Path(__file__).parents[3] / "configs" / "agent.yaml"


def build(data: dict[str, Any] | None = None, **environ: str) -> Any:
    return build_config(data or {}, environ, base=BASE, cwd=CWD)


def test_defaults_without_file_and_environment() -> None:
    config = build()
    assert (config.agent_id, config.version) == ("", "1.0.0")
    assert config.heartbeat.socket_path == "/tmp/daemon.sock"
    assert (config.heartbeat.url, config.heartbeat.interval_s) == ("", 30.0)
    assert (config.http.host, config.http.port) == ("127.0.0.1", 8081)
    assert (config.log.level, config.log.file, config.log.format) == ("info", "", "json")


FILE = {
    "agent_id": "file-id", "version": "2.0",
    "heartbeat": {"socket_path": "/file.sock", "url": "http://file/heartbeat", "interval": "10s"},
    "http": {"host": "::1", "port": 1}, "log": {"level": "warn", "file": "/file.log", "format": "text"},
}


@pytest.mark.parametrize(
    ("variable", "given", "read", "want"),
    [
        ("AGENT_ID", "env-id", lambda c: c.agent_id, "env-id"),
        ("AGENT_VERSION", "3.1", lambda c: c.version, "3.1"),
        ("AGENT_HEARTBEAT_SOCKET_PATH", "/env.sock", lambda c: c.heartbeat.socket_path, "/env.sock"),
        ("AGENT_HEARTBEAT_URL", "http://env/h", lambda c: c.heartbeat.url, "http://env/h"),
        ("AGENT_HEARTBEAT_INTERVAL", "1m30s", lambda c: c.heartbeat.interval_s, 90.0),
        ("AGENT_HTTP_HOST", "0.0.0.0", lambda c: c.http.host, "0.0.0.0"),
        ("AGENT_HTTP_PORT", "0", lambda c: c.http.port, 0),
        ("AGENT_LOG_LEVEL", "debug", lambda c: c.log.level, "debug"),
        ("AGENT_LOG_FILE", "/env.log", lambda c: c.log.file, "/env.log"),
        ("AGENT_LOG_FORMAT", "json", lambda c: c.log.format, "json"),
    ],
)
def test_each_variable_beats_the_file(variable: str, given: str, read: Any, want: object) -> None:
    before = read(build(FILE))
    assert before != want
    assert read(build(FILE, **{variable: given})) == want


def test_every_key_has_been_tried_above() -> None:
    assert len(KEYS) == 10


def test_what_the_daemon_says_counts_only_where_file_and_variable_are_silent() -> None:
    told = {"HOSTDAEMON_SOCKET": "/told.sock", "HOSTDAEMON_AGENT_ID": "told"}
    silent = build({"agent_id": "", "heartbeat": {"socket_path": None}}, **told)
    assert (silent.agent_id, silent.heartbeat.socket_path) == ("told", "/told.sock")
    said = build({"agent_id": "me", "heartbeat": {"socket_path": "/file.sock"}}, **told)
    assert (said.agent_id, said.heartbeat.socket_path) == ("me", "/file.sock")
    assert build(AGENT_ID="env", **told).agent_id == "env"


def test_an_empty_variable_counts_as_not_given() -> None:
    assert build(FILE, AGENT_ID="", AGENT_HTTP_PORT="").http.port == 1


def test_a_socket_in_the_environment_beats_the_url_of_the_file() -> None:
    config = build(FILE, AGENT_HEARTBEAT_SOCKET_PATH="/env.sock")
    assert (config.heartbeat.url, config.heartbeat.socket_path) == ("", "/env.sock")


def test_relative_paths_start_at_the_file_or_at_the_working_directory() -> None:
    assert build({"heartbeat": {"socket_path": "run/a.sock"}}).heartbeat.socket_path == "/etc/x/run/a.sock"
    assert build(AGENT_LOG_FILE="a.log").log.file == "/run/y/a.log"


def test_all_faults_come_at_once_each_with_its_key_or_variable() -> None:
    data = {
        "agent_id": "-bad", "version": 1.1, "verison": "1", "http": {"port": "eighty", "prot": 1},
        "heartbeat": [], "log": {"level": "loud"},
    }
    with pytest.raises(ConfigValidateError) as caught:
        build(data, AGENT_HEARTBEAT_INTERVAL="soon")
    faults = caught.value.details["faults"]
    assert isinstance(faults, tuple)
    names = [fault.partition(":")[0] for fault in faults]
    assert sorted(names) == sorted([
        "heartbeat", "verison", "http.prot", "agent_id", "version", "AGENT_HEARTBEAT_INTERVAL", "http.port",
        "log.level",
    ])
    assert "http.host, http.port" in next(fault for fault in faults if fault.startswith("http.prot"))


def test_a_url_without_an_id_is_refused_and_an_id_from_the_daemon_serves() -> None:
    with pytest.raises(ConfigValidateError, match="agent_id: needed"):
        build(AGENT_HEARTBEAT_URL="http://h/heartbeat")
    config = build(AGENT_HEARTBEAT_URL="https://h/heartbeat", HOSTDAEMON_AGENT_ID="a")
    assert config.needs_tls
    assert not build().needs_tls


@pytest.mark.parametrize(
    ("parse", "given"),
    [
        (values.duration_s, "-1s"), (values.duration_s, True), (values.duration_s, "1 s"),
        (values.duration_s, float("nan")), (values.duration_s, float("inf")), (values.duration_s, 10**400),
        (values.duration_s, "0"), (values.duration_s, "50ms"), (values.duration_s, "2h"),
        (values.duration_s, []), (values.duration_s, "s"), (values.duration_s, "9" * 5000),
        (values.port, 65536), (values.port, -1), (values.port, True), (values.port, "²"), (values.port, 1.0),
        (values.port, "9" * 5000),
        (values.agent_id, "a/b"), (values.agent_id, "a" * 64), (values.agent_id, "a\n"), (values.agent_id, 7),
        (values.version_text, 1.0), (values.version_text, "a\nb"), (values.version_text, "a" * 201),
        (values.socket_path, "/" + "a" * 103), (values.socket_path, "/" + "é" * 60),
        (values.socket_path, "/a\0b"), (values.path_text, "/" + "a" * 5000), (values.path_text, {}),
        (values.host, "example.org"), (values.host, "1.2.3"), (values.host, 1),
        (values.http_url, "ftp://h/"), (values.http_url, "http://"), (values.http_url, "http://[::1/"),
        (values.http_url, "http://h:99999/"), (values.http_url, "http://h/\r\nX: 1"),
        (values.http_url, "http://hé/"), (values.http_url, "http://h/a b"), (values.http_url, "http://u:p@h/"),
        (values.choice("a", "b"), "c"), (values.choice("a"), ["a"]), (values.choice("a"), 1),
    ],
)
def test_bad_values_are_refused_with_a_short_message(parse: Any, given: object) -> None:
    with pytest.raises(ValueFault) as caught:
        parse(given, BASE)
    assert 0 < len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("given", "want"),
    [("500ms", 0.5), ("1m30s", 90.0), ("1h", 3600.0), (30, 30.0), (0.5, 0.5), ("45", 45.0), ("1.5s", 1.5)],
)
def test_durations(given: object, want: float) -> None:
    assert values.duration_s(given, BASE) == pytest.approx(want)


def test_localhost_needs_no_resolver() -> None:
    assert values.host("localhost", BASE) == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "line 1"), ("- 1\n- 2\n", "mapping"), ("just words", "mapping"), ("a: 1\na: 2\n", "twice"),
        ("http: {port: 1, port: 2}", "twice"), ("[" * 1200, "YAML"), ("a: \0", "YAML"),
        ("a: 2020-13-45", "YAML"),
        ("a: !!python/object/apply:os.system [x]", "line 1"), ("? [a]\n: 1", "line 1"),
        ("a: " + "9" * 5000, "YAML"),
    ],
)
def test_text_that_is_no_good_yaml_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigLoadError, match=says):
        parse_yaml(text)


def test_an_empty_file_says_nothing() -> None:
    assert parse_yaml("# nothing\n") == {}


def test_aliases_that_multiply_do_not_multiply_the_message() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for n in range(1, 12):
        text += f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n"
    with pytest.raises(ConfigValidateError) as caught:
        build(dict(parse_yaml(text + "version: *a11\n")))
    assert len(str(caught.value)) < 5000


def test_merge_keys_are_no_duplicates() -> None:
    assert parse_yaml("x: &x {port: 1}\nhttp: {<<: *x, port: 2}\n")["http"] == {"port": 2}


def test_load_names_the_file_in_every_refusal(tmp_path: Path) -> None:
    with pytest.raises(ConfigLoadError, match=r"gone\.yaml: No such file"):
        load_config(tmp_path / "gone.yaml", {})
    path = tmp_path / "agent.yaml"
    for raw, error in (
        (b"a: [", ConfigLoadError), (b"\xff", ConfigLoadError), (b"#" * 2_000_000, ConfigLoadError),
        (b"x: 1", ConfigValidateError),
    ):
        path.write_bytes(raw)
        with pytest.raises(error, match=r"agent\.yaml: "):
            load_config(path, {})


def test_load_reads_file_and_environment(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("heartbeat: {socket_path: a.sock}\n")
    config = load_config(path, {"AGENT_HTTP_PORT": "9"})
    assert config.heartbeat.socket_path == str(tmp_path / "a.sock")
    assert config.http.port == 9


def test_the_shipped_file_serves_agents_that_differ_by_environment_alone() -> None:
    told = {"HOSTDAEMON_SOCKET": "/run/h.sock"}
    one = load_config(SHIPPED, {**told, "HOSTDAEMON_AGENT_ID": "one"})
    two = load_config(SHIPPED, {**told, "HOSTDAEMON_AGENT_ID": "two", "AGENT_HTTP_PORT": "8082"})
    assert (one.agent_id, one.http.port, one.heartbeat.socket_path) == ("one", 8081, "/run/h.sock")
    assert (two.agent_id, two.http.port, two.heartbeat.socket_path) == ("two", 8082, "/run/h.sock")
    text = SHIPPED.read_text()
    assert all(key.variable in text for key in KEYS)
