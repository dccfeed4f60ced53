"""What --check finds missing on this host."""

from __future__ import annotations

import os

import pytest

from daemon.config.check import missing_files


def _found(loaded):
    return {fault.path: fault.message for fault in missing_files(loaded)}


def test_what_is_there_is_no_fault(load_text, tmp_path):
    (tmp_path / "bin").write_text("")
    (tmp_path / "bin").chmod(0o755)
    (tmp_path / "c.yml").write_text("")
    who = f"user: '{os.getuid()}', group: root"
    text = f"agents: [{{id: a, type: custom, binary_path: ./bin, config_file: c.yml, {who}}}]"
    assert missing_files(load_text(text)) == ()


def test_missing_files_are_placed_where_they_are_named(load_text, tmp_path):
    (tmp_path / "plain").write_text("")
    (tmp_path / "dir").mkdir()
    text = """\
update: {public_key_file: none.pem}
agents:
- id: a
  type: custom
  binary_path: ./none
  config_file: none.yml
- {id: b, type: custom, binary_path: ./plain, config_file: dir}
- {id: c, type: custom, binary_path: ./dir}
- {id: d, type: custom, binary_path: nowhere-at-all, user: no-such-user-x, group: no-such-group-x}
- {id: e, type: custom, binary_path: ./none, config_file: none.yml, enabled: false}
"""
    loaded = load_text(text)
    faults = missing_files(loaded)
    assert [(fault.line, fault.path) for fault in faults] == [
        (1, "update.public_key_file"),
        (5, "agents[0].binary_path"),
        (6, "agents[0].config_file"),
        (7, "agents[1].binary_path"),
        (7, "agents[1].config_file"),
        (8, "agents[2].binary_path"),
        (9, "agents[3].binary_path"),
        (9, "agents[3].user"),
        (9, "agents[3].group"),
    ]
    found = _found(loaded)
    assert "does not exist" in found["agents[0].binary_path"]
    assert "is not an executable file" in found["agents[1].binary_path"]
    assert "is not a readable file" in found["agents[1].config_file"]
    assert "is not an executable file" in found["agents[2].binary_path"]
    assert "neither beside the interpreter nor on PATH" in found["agents[3].binary_path"]
    assert str(faults[0]).startswith(f"{loaded.path}:1:27: update.public_key_file: ")


def test_tls_files_and_the_control_group_are_looked_at(load_text):
    found = _found(
        load_text(
            "daemon:\n  control_group: no-such-group-x\n"
            "  http_tls: {cert_file: c, key_file: k, client_ca_file: a}\n"
            "  grpc: {tls: {cert_file: c, key_file: k, ca_file: a}}\n"
            "manager: {tls: {cert_file: c, key_file: k, ca_file: a}}\n"
        )
    )
    assert set(found) == {
        "daemon.control_group",
        "daemon.http_tls.cert_file",
        "daemon.http_tls.key_file",
        "daemon.http_tls.client_ca_file",
        "daemon.grpc.tls.cert_file",
        "daemon.grpc.tls.key_file",
        "daemon.grpc.tls.ca_file",
        "manager.tls.cert_file",
        "manager.tls.key_file",
        "manager.tls.ca_file",
    }


def test_the_legacy_agent_is_looked_at_under_its_own_path(load_text):
    assert set(_found(load_text("agent: {binary_path: ./none}"))) == {"agent.binary_path"}


@pytest.mark.parametrize("path", ["/" + "x" * 5000, "/dev/null/x"])
def test_impossible_paths_are_simply_missing(load_text, path):
    text = f"agents: [{{id: a, type: custom, binary_path: {path}, user: '99999999999'}}]"
    assert set(_found(load_text(text))) == {"agents[0].binary_path", "agents[0].user"}
