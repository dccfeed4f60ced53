"""Which daemon is asked, and how far a configuration is read for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.cli.faults import CliFault
from daemon.cli.where import daemon_section, find_socket, plain_section
from daemon.config.load import load
from daemon.config.places import DEFAULT_WORK_DIR

FORMS = [
    "daemon: {work_dir: w}\n",
    "daemon:\n  work_dir: w\n",
    "daemon:\n    work_dir: /srv/hd   # here\n    log_file: x\n",
    'daemon:\n  work_dir: "w"\n  control_socket: "own/c.sock"\n',
    "daemon:\n  work_dir: 'it''s'\n",
    "# c\ndaemon: # d\n\n  # e\n  log_level: info\n  control_socket: ../c.sock\nagents: []\n",
    "agents: []\ndaemon:\n  labels: {work_dir: nope, control_socket: nope}\n  work_dir: w\n",
    "agents:\n  - {id: a, type: custom, binary_path: /bin/sleep, env: {work_dir: nope}, work_dir: nope}\ndaemon: {work_dir: w}\n",
    "daemon:\n  labels:\n    work_dir: nope\n  work_dir: w\n",
    "daemon:\n  log_level: info\n",
    "daemon: {}\n",
    "daemon:\n  labels: &x {a: b}\n  work_dir: &w w\n  control_socket: *w\n",
    "{daemon: {work_dir: w}}\n",
    "daemon:\n  work_dir:\n    w\n",
    "daemon:\n  work_dir: w\n  grpc:\n    tls: {cert_file: c, key_file: k,\n      ca_file: a}\n",
    "\ufeffdaemon:\n  work_dir: w\n",
]


@pytest.mark.parametrize("text", FORMS)
def test_the_socket_is_the_one_the_daemon_would_use(tmp_path: Path, text: str) -> None:
    config = tmp_path / "daemon.yaml"
    config.write_text(text, encoding="utf-8")
    assert find_socket(None, str(config), {}).path == load(config).config.daemon.control_socket


@pytest.mark.parametrize("config", sorted((Path(__file__).parents[3] / "configs").glob("daemon*.yaml")), ids=lambda p: p.name)
def test_so_too_of_the_shipped_configurations(config: Path) -> None:
    assert find_socket(None, str(config), {}).path == load(config).config.daemon.control_socket


def test_the_usual_form_needs_no_yaml_parser_and_others_are_left_to_it() -> None:
    assert plain_section("daemon:\n  work_dir: w # x\n  labels: {a: b}\nagents: [") == {"work_dir": "w"}
    for text in ("daemon: {work_dir: w}", "daemon:\n  work_dir: *w", "daemon:\n  work_dir: null", "x: 1\n",
                 "daemon:\n  work_dir: 'a'\n", "daemon:\n  <<: *d\n", "daemon:\n  work_dir: a\n  work_dir: b\n",
                 "daemon:\n  a: 1\ndaemon:\n  b: 2\n", 'daemon:\n  work_dir: "a\\x62"\n', "daemon:\n\twork_dir: w\n"):
        assert plain_section(text) is None, text


def test_a_file_that_is_broken_below_its_daemon_section_still_tells() -> None:
    assert daemon_section("daemon: {work_dir: w}\nagents: [{{{\n  : : :") == {"work_dir": "w"}
    assert daemon_section("- no\n- mapping") == {}


def test_who_is_nearest_to_the_command_line_wins(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("daemon: {control_socket: /of/config}")
    both = {"HOSTDAEMON_CONTROL_SOCKET": "/of/env", "HOSTDAEMON_CONFIG": str(config)}
    assert find_socket("/of/option", str(config), both).path == "/of/option"
    assert find_socket(None, str(config), both).path == "/of/config"
    assert find_socket(None, None, both).path == "/of/env"
    assert find_socket(None, None, {"HOSTDAEMON_CONFIG": str(config)}).path == "/of/config"


def test_without_any_configuration_it_is_the_built_in_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("daemon.cli.where.DEFAULT_PATH", tmp_path / "none.yaml")
    found = find_socket(None, None, {})
    assert found.path == f"{DEFAULT_WORK_DIR}/run/control/control.sock"
    assert "none.yaml" in found.told_by


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"daemon: {work_dir: ["])
def test_a_file_that_cannot_tell_is_named_with_the_way_out(tmp_path: Path, content: bytes | None) -> None:
    config = tmp_path / "c.yaml"
    if content is not None:
        config.write_bytes(content)
    with pytest.raises(CliFault) as caught:
        find_socket(None, str(config), {})
    assert str(config) in caught.value.message
    assert "--socket" in caught.value.hint or "config check" in caught.value.hint
