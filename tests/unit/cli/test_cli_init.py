"""Installed agents and the configuration that is written for them; packages and what is sent of them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import click
import pytest

from daemon.cli.config import checked, shown
from daemon.cli.faults import CliFault
from daemon.cli.found import KNOWN, configuration, installed, place
from daemon.cli.package import request_of
from tests.fakes.packages import package_of, sha256


def host(tmp_path: Path, *, configs: bool) -> Any:
    """A host on which every known agent is installed: its own copies, for the file is checked."""
    def which(name: str) -> str:
        binary = tmp_path / Path(name).name
        binary.write_text("#!/bin/sh\n")
        binary.chmod(0o755)
        return str(binary)

    return installed(which, lambda path: configs)


@pytest.mark.parametrize("configs", [True, False])
@pytest.mark.parametrize("busy", [(), (9100, 6379)])
def test_what_is_written_for_any_host_passes_the_check(tmp_path: Path, configs: bool, busy: tuple[int, ...]) -> None:
    found = host(tmp_path, configs=configs)
    text = configuration(found, work_dir="w", log_file="", schema="s.json", busy_ports=busy)
    for known in KNOWN:  # their own configuration files are not on this host
        for name in known.config_files:
            copy = tmp_path / name.replace("/", "_")
            copy.write_text("")
            text = text.replace(f"config_file: {name}", f"config_file: {copy}")
    path = tmp_path / "daemon.yaml"
    path.write_text(text)
    loaded, faults = checked(path)
    assert faults == ()
    assert loaded is not None
    assert not loaded.warnings
    assert [a.id for a in loaded.config.agents] == [k.id for k in KNOWN]
    on = {a.id for a in loaded.config.agents if a.enabled}
    wanted = {k.id for k in KNOWN if (configs or not k.needs_config) and k.port not in busy}
    assert on == wanted
    assert text.startswith("# yaml-language-server: $schema=s.json\n")


def test_without_agents_it_is_a_good_file_with_an_example(tmp_path: Path) -> None:
    path = tmp_path / "daemon.yaml"
    path.write_text(configuration((), work_dir="a: #b", log_file=""))
    loaded, faults = checked(path)
    assert faults == ()
    assert loaded is not None
    assert loaded.config.agents == ()
    assert loaded.config.daemon.work_dir == str(tmp_path / "a: #b")
    assert "binary_path: /usr/local/bin/api" in path.read_text()


def test_binaries_are_looked_for_on_path_and_then_where_an_ordinary_path_ends() -> None:
    def search(name: str, path: str | None) -> str | None:
        return f"/usr/sbin/{name}" if path and "/usr/sbin" in path else None

    assert place("collectd", search) == "/usr/sbin/collectd"
    assert place("/usr/share/filebeat/bin/filebeat", search) is None
    assert installed(lambda name: None, lambda path: True) == ()


def test_a_fault_is_shown_with_its_line_and_a_caret(tmp_path: Path) -> None:
    path = tmp_path / "daemon.yaml"
    path.write_text("daemon:\n  log_levle: info\n")
    loaded, faults = checked(path)
    assert loaded is None
    text = shown(faults[0], path.read_text().splitlines())
    first, line, caret = text.splitlines()
    assert first.startswith(f"{path}:2:3: ")
    assert "log_level" in first
    assert line.endswith("  log_levle: info")
    assert line[caret.index("^")] == "l"


def test_a_line_of_a_file_cannot_harm_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "daemon.yaml"
    path.write_text("daemon:\n  log_levle: '\u009b2J'\n")
    _loaded, faults = checked(path)
    assert "\u009b" not in shown(faults[0], path.read_text().splitlines())


def ask(source: str, **named: Any) -> dict[str, Any]:
    given = {"version": None, "signature": None, "sig_file": None, "digest": None} | named
    return request_of("web", source, **given)


def test_a_package_says_its_version_and_its_signature_lies_beside_it(tmp_path: Path) -> None:
    data = package_of({"web": b"x"}, component="web", version="1.2.3")
    package = tmp_path / "web.tar.gz"
    package.write_bytes(data)
    (tmp_path / "web.tar.gz.sig").write_text("c2ln\n")
    assert ask(str(package)) == {
        "component": "web", "version": "1.2.3", "hash": sha256(data), "signature": "c2ln",
        "update_data": base64.b64encode(data).decode(),
    }
    assert ask(str(package), version="9", signature="eA==")["version"] == "9"


def test_of_a_url_everything_is_named() -> None:
    body = ask("https://p.example/x", version="1", digest="ab", signature="eA==")
    assert body == {
        "component": "web", "version": "1", "hash": "ab", "signature": "eA==", "download_url": "https://p.example/x"
    }
    with pytest.raises(click.UsageError, match="--hash"):
        ask("https://p.example/x", version="1", signature="eA==")


def test_what_is_missing_or_damaged_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    package = tmp_path / "x"
    with pytest.raises(CliFault, match="cannot be read"):
        ask(str(package))
    package.write_bytes(b"no package")
    with pytest.raises(click.UsageError, match=r"x\.sig"):
        ask(str(package))
    with pytest.raises(click.UsageError, match="--version"):
        ask(str(package), signature="eA==")
    with pytest.raises(CliFault, match="damaged"):
        ask(str(package), signature="eA==", digest="00")
    with pytest.raises(click.UsageError, match="name one"):
        ask(str(package), signature="eA==", sig_file="y")
    (tmp_path / "bad.sig").write_text("not base64!")
    with pytest.raises(CliFault, match="no signature"):
        ask(str(package), version="1", sig_file=str(tmp_path / "bad.sig"))
