"""manager.yaml: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.config.source import MAX_FILE_BYTES
from daemon.errors import ConfigLoadError, ConfigValidateError
from daemon.manager.config import ManagerConfig
from daemon.manager.load import load

ROOT = Path(__file__).resolve().parents[3]


def config_of(folder: Path, text: str) -> ManagerConfig:
    path = folder / "manager.yaml"
    path.write_text(text)
    return load(path).config


def faults_of(folder: Path, text: str) -> list[str]:
    """Path and message of every fault."""
    with pytest.raises(ConfigValidateError) as caught:
        config_of(folder, text)
    faults = caught.value.details["faults"]
    assert isinstance(faults, tuple)
    return [f"{fault.path}: {fault.message}" for fault in faults]


def test_the_shipped_file_says_the_defaults() -> None:
    shipped = load(ROOT / "configs" / "manager.yaml")
    assert not shipped.warnings
    assert shipped.config == ManagerConfig(work_dir=str(ROOT / "var" / "manager"))


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    found = config_of(tmp_path, "manager: {work_dir: w, grpc: {tls: {cert_file: c, key_file: k, ca_file: a}}}")
    assert found.work_dir == f"{tmp_path}/w"
    assert found.grpc.tls.ca_file == f"{tmp_path}/a"
    assert found.database_path == f"{tmp_path}/w/manager.db"


def test_towards_daemons_the_same_files_serve_unless_others_are_written(tmp_path: Path) -> None:
    own = "grpc: {tls: {cert_file: /c, key_file: /k, ca_file: /a}}"
    found = config_of(tmp_path, f"manager: {{{own}, daemon_tls: {{server_name: '{{hostname}}'}}}}")
    assert (found.client_tls.cert_file, found.client_tls.server_name) == ("/c", "{hostname}")
    found = config_of(tmp_path, f"manager: {{{own}, daemon_tls: {{ca_file: /b}}}}")
    assert (found.client_tls.cert_file, found.client_tls.ca_file) == ("", "/b")


def test_a_node_is_offline_after_three_heartbeats(tmp_path: Path) -> None:
    assert config_of(tmp_path, "manager: {heartbeat_interval: 20s}").offline_after_s == 60.0


def test_an_empty_section_is_its_defaults(tmp_path: Path) -> None:
    assert config_of(tmp_path, "manager:\n  grpc:\n") == ManagerConfig()


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    assert faults_of(tmp_path, "manager:\n  grpc_prot: 1\n  http_port: 70000\n  retention: {metrics: 0s}\n") == [
        "manager.grpc_prot: unknown key; did you mean grpc_port?",
        "manager.http_port: must be 0 to 65535, not 70000",
        "manager.retention.metrics: must be > 0, not 0s",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{}", None),
        ("grpc_host: 0.0.0.0", "manager.grpc_host: 0.0.0.0 is reached from other hosts"),
        ("grpc_host: ''", "manager.grpc_host: every interface is reached from other hosts"),
        ("grpc_host: 0.0.0.0, grpc: {insecure: true}", None),
        ("grpc_host: 0.0.0.0, grpc: {tls: {cert_file: /c, key_file: /k, ca_file: /a}}", None),
        ("grpc_host: 0.0.0.0, grpc: {tls: {cert_file: /c, key_file: /k}}", "manager.grpc_host: 0.0.0.0 is reached"),
        ("grpc: {tls: {cert_file: /c}}", "manager.grpc.tls.cert_file: needs key_file"),
        ("grpc: {tls: {ca_file: /c}}", "manager.grpc.tls.ca_file: needs cert_file and key_file"),
        ("grpc: {allowed_clients: [a]}", "manager.grpc.allowed_clients: needs tls.ca_file"),
        ("http_host: 192.0.2.1", "manager.http_host: 192.0.2.1 is reached from other hosts"),
        ("http_host: 192.0.2.1, http_insecure: true", None),
        ("http_host: 192.0.2.1, http_port: 0", None),
        ("http_host: 192.0.2.1, http_tls: {cert_file: /c, key_file: /k}", None),
        ("http_tls: {key_file: /k}", "manager.http_tls.key_file: needs cert_file"),
        ("http_tls: {client_ca_file: /k}", "manager.http_tls.client_ca_file: needs cert_file and key_file"),
        ("http_port: 9090", "manager.http_port: 9090 is grpc_port too"),
        ("grpc_port: 0", "manager.grpc_port: must be 1 to 65535, not 0"),
        ("log_level: loud", "manager.log_level: "),
        ("grpc: [1]", "manager.grpc: must be a mapping of keys"),
        ("grpc: {allowed_clients: a}", "manager.grpc.allowed_clients: must be a list"),
        ("work_dir: {a: 1}", "manager.work_dir: must be a single value"),
        ("work_dir: /a, work_dir: /b", "manager.work_dir: is written twice"),
        ("[a]: 1", "manager: a key must be a word, not a list"),
        ("http_insecure: 1", "manager.http_insecure: "),
    ],
)
def test_the_rules(tmp_path: Path, text: str, fault: str | None) -> None:
    whole = "manager: " + (text if text.startswith("{") else f"{{{text}}}")
    if fault is None:
        config_of(tmp_path, whole)
        return
    found = faults_of(tmp_path, whole)
    assert len(found) == 1, found
    assert found[0].startswith(fault)


def test_what_is_open_to_everybody_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("manager: {grpc_host: 0.0.0.0, grpc: {insecure: true}, http_host: '::', http_insecure: true}")
    assert [fault.path for fault in load(path).warnings] == ["manager.grpc.insecure", "manager.http_insecure"]


@pytest.mark.parametrize("text", ["manager: [", "manager: !!python/object:os.system {}", "a: *b", "\t- x"])
def test_what_is_no_yaml_is_d1001_with_its_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigLoadError, match=r"manager\.yaml:\d+:\d+: "):
        config_of(tmp_path, text)


@pytest.mark.parametrize("data", [b"manager: \xff", b"#" * (MAX_FILE_BYTES + 1)])
def test_what_is_no_configuration_is_d1001(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "manager.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigLoadError):
        load(path)


def test_an_empty_file_and_other_documents_are_refused(tmp_path: Path) -> None:
    assert faults_of(tmp_path, "") == [
        ": the file says nothing, or was not written to its end; write at least manager: {}"
    ]
    assert faults_of(tmp_path, "daemon: {}") == ["daemon: unknown key; known here: manager"]


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigLoadError, match="not a regular file"):
        load(tmp_path / "fifo")
    with pytest.raises(ConfigLoadError, match="Is a directory"):
        load(tmp_path)
    with pytest.raises(ConfigLoadError, match="No such file"):
        load(tmp_path / "none.yaml")
