"""Defaults, precedence, type profiles, paths, bare names and the legacy form."""

from __future__ import annotations

import pytest

from daemon.config.profiles import find_binary
from daemon.config.schema import AgentType, Policy


def _agent(load_text, written, before=""):
    return load_text(f"{before}\nagents: [{{{written}}}]").config.agents[0]


def test_paths_are_relative_to_the_directory_of_the_file(load_text, tmp_path):
    loaded = load_text(
        "daemon: {work_dir: ../w, log_file: logs/d.log}\n"
        "agents: [{id: a, type: custom, binary_path: ./bin/x, config_file: a.yml,"
        " health_check: {command: [./p]}}]\n"
    )
    agent = loaded.config.agents[0]
    assert loaded.config.daemon.work_dir == str(tmp_path.parent / "w")
    assert loaded.config.daemon.log_file == str(tmp_path / "logs/d.log")
    assert agent.binary_path == str(tmp_path / "bin/x")
    assert agent.config_file == str(tmp_path / "a.yml")
    assert agent.work_dir == str(tmp_path.parent / "w/agents/a")
    assert agent.health_check.command == (str(tmp_path / "p"),)


def test_an_empty_work_dir_is_the_default(load_text):
    assert load_text("daemon: {work_dir: ''}").config.daemon.work_dir == "/var/lib/daemon"


def test_a_bare_name_is_found_beside_the_interpreter_before_path(tmp_path):
    for directory in ("beside", "path"):
        (tmp_path / directory).mkdir()
        for name in ("both", f"only-{directory}"):
            file = tmp_path / directory / name
            file.write_text("")
            file.chmod(0o755)
    (tmp_path / "path/plain").write_text("")

    def find(name):
        return find_binary(
            name, interpreter=str(tmp_path / "beside/python"), search_path=str(tmp_path / "path")
        )

    assert find("both") == str(tmp_path / "beside/both")
    assert find("only-path") == str(tmp_path / "path/only-path")
    assert find("plain") == "plain"
    assert find("nowhere") == "nowhere"
    assert find("/a/path") == "/a/path"


def test_a_bare_name_found_nowhere_stays_bare(load_text):
    assert (
        _agent(load_text, "id: a, type: custom, binary_path: nowhere-at-all").binary_path == "nowhere-at-all"
    )


@pytest.mark.parametrize(
    ("kind", "args", "version_command", "endpoint"),
    [
        ("filebeat", ("-c", "/c.yml", "-path.home", "/w"), ("/b", "version"), ""),
        ("telegraf", ("--config", "/c.yml"), ("/b", "--version"), ""),
        (
            "node_exporter",
            ("--web.listen-address=:9100", "--path.procfs=/proc", "--path.sysfs=/sys"),
            ("/b", "--version"),
            "http://127.0.0.1:9100/metrics",
        ),
        ("custom", ("-config", "/c.yml"), (), ""),
    ],
)
def test_each_type_brings_its_own_settings(load_text, kind, args, version_command, endpoint):
    agent = _agent(load_text, f"id: a, type: {kind}, binary_path: /b, config_file: /c.yml, work_dir: /w")
    assert agent.type is AgentType(kind)
    assert agent.args == args
    assert agent.version_command == version_command
    assert agent.health_check.http_endpoint == endpoint


def test_an_argument_naming_the_config_file_goes_where_there_is_none(load_text):
    assert _agent(load_text, "id: a, type: filebeat, binary_path: /b, work_dir: /w").args == (
        "-path.home",
        "/w",
    )
    assert _agent(load_text, "id: a, type: custom, binary_path: /b").args == ()


def test_written_args_replace_the_type_s_own_even_when_empty(load_text):
    assert _agent(load_text, "id: a, type: telegraf, binary_path: /b, config_file: /c, args: []").args == ()
    assert _agent(load_text, "id: a, type: telegraf, binary_path: /b, config_file: /c, args: ").args != ()


def test_placeholders_are_filled_in_once_and_other_braces_left(load_text):
    agent = _agent(
        load_text,
        "id: a, type: custom, binary_path: /b, config_file: '/{work_dir}', work_dir: /w,"
        " args: ['--x={config_file}:{work_dir}', '{binary_path}', '{id}', '{{work_dir}}'],"
        " version_command: ['{binary_path}', -V], env: {X: '{work_dir}'}",
    )
    assert agent.args == ("--x=/{work_dir}:/w", "/b", "{id}", "{/w}")
    assert agent.version_command == ("/b", "-V")
    assert agent.env == {"X": "{work_dir}"}


def test_precedence_is_agent_then_agent_defaults_then_type_then_built_in(load_text):
    defaults = (
        "agent_defaults: {health_check: {http_endpoint: 'http://h/', interval: 7s, http_timeout: 1s},"
        " restart: {policy: never}, logs: {max_files: 9}}"
    )
    plain = "id: a, type: node_exporter, binary_path: /b"
    agent = _agent(load_text, plain + ", health_check: {interval: 3s}, restart: {max_retries: 1}", defaults)
    assert agent.health_check.interval == 3.0
    assert agent.health_check.http_timeout == 1.0
    assert agent.health_check.http_endpoint == "http://h/"
    assert agent.health_check.failure_threshold == 3
    assert (agent.restart.policy, agent.restart.max_retries) == (Policy.NEVER, 1)
    assert agent.logs.max_files == 9
    off = _agent(load_text, plain + ", health_check: {http_endpoint: ''}", "")
    assert off.health_check.http_endpoint == ""


@pytest.mark.parametrize(
    ("written", "before", "from_start"),
    [
        ("type: custom, health_check: {heartbeat_timeout: 90s}", "", True),
        ("type: custom, health_check: {heartbeat_timeout: 0}", "", False),
        ("type: custom, health_check: {interval: 1s}", "", False),
        ("type: custom", "agent_defaults: {health_check: {heartbeat_timeout: 90s}}", False),
        ("type: telegraf, health_check: {heartbeat_timeout: 90s}", "", False),
    ],
)
def test_the_timeout_counts_from_the_start_only_for_custom_with_the_key_on_the_agent(
    load_text, written, before, from_start
):
    assert _agent(load_text, f"id: a, binary_path: /b, {written}", before).heartbeat_from_start is from_start


def test_an_agent_without_a_socket_path_uses_the_daemon_s(load_text):
    loaded = load_text(
        "daemon: {socket_path: /run/hb.sock}\nagents:\n"
        "- {id: a, type: custom, binary_path: /b}\n"
        "- {id: b, type: custom, binary_path: /b, socket_path: /tmp/o.sock}\n"
    )
    assert [agent.socket_path for agent in loaded.config.agents] == ["/run/hb.sock", "/tmp/o.sock"]


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("daemon: {id: x}", 0),
        ("daemon: {grpc: {}}", 9091),
        ("daemon: {grpc: {reflection: true}}", 9091),
        ("daemon: {grpc: }", 0),
        ("manager: {address: 'localhost:9090'}", 9091),
        ("manager: {address: ''}", 0),
        ("daemon: {grpc_port: 0, grpc: {}}", 0),
        ("daemon: {grpc_port: 9191}", 9191),
        ("daemon: {grpc_port: null}\nmanager: {address: 'localhost:9090'}", 9091),
    ],
)
def test_grpc_listens_when_a_manager_a_grpc_section_or_a_port_is_written(load_text, text, port):
    assert load_text(text).config.daemon.grpc_port == port


def test_update_folders_follow_the_work_dir_and_hosts_are_closed_by_a_slash(load_text):
    update = load_text(
        "daemon: {work_dir: /w}\nupdate: {backup_dir: /b, allowed_urls: ['https://h', 'https://h/p', 'http://h:1?x']}"
    ).config.update
    assert (update.download_dir, update.backup_dir) == ("/w/downloads", "/b")
    assert update.allowed_urls == ("https://h/", "https://h/p", "http://h:1?x")


LEGACY = (
    "agent: {binary_path: /b, args: [x], env: {A: b}, config_file: /c,"
    " health_check: {heartbeat_timeout: 5s}}\n"
)


def test_the_legacy_form_is_one_custom_agent_named_agent(load_text):
    loaded = load_text("daemon: {work_dir: /w}\nagent_defaults: {restart: {max_retries: 2}}\n" + LEGACY)
    (agent,) = loaded.config.agents
    assert (agent.id, agent.type, agent.work_dir) == ("agent", AgentType.CUSTOM, "/w/agents/agent")
    assert (agent.args, agent.env) == (("x",), {"A": "b"})
    assert agent.heartbeat_from_start
    assert agent.restart.max_retries == 2
    assert loaded.agent_paths == {"agent": "agent"}
    assert loaded.warnings == ()


def test_the_legacy_form_has_its_own_keys_and_paths(faults_of):
    found = faults_of("agent: {type: custom, restart: {policy: x}}")
    assert "unknown key" in found["agent.type"]
    assert "agent.restart.policy" in found
    assert "is missing" in found["agent.binary_path"]


def test_with_both_forms_agents_wins_and_loading_warns(load_text):
    text = "agent: {nonsense: true}\nagents: [{id: a, type: custom, binary_path: /b}]\n"
    loaded = load_text(text)
    assert [agent.id for agent in loaded.config.agents] == ["a"]
    assert [(w.path, w.line) for w in loaded.warnings] == [("agent", 1)]
    assert "agents wins" in loaded.warnings[0].message


@pytest.mark.parametrize("agents", ["agents: []", "agents:", ""])
def test_an_empty_list_of_agents_leaves_the_legacy_form_alone(load_text, agents):
    loaded = load_text(LEGACY + agents + "\n")
    assert [agent.id for agent in loaded.config.agents] == ["agent"]
    assert loaded.warnings == ()


def test_an_empty_legacy_section_beside_agents_is_nothing(load_text):
    loaded = load_text("agent: {}\nagents: [{id: a, type: custom, binary_path: /b}]\n")
    assert loaded.warnings == ()
