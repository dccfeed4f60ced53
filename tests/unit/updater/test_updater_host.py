"""What this host is, in a manifest's words."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from daemon.model.platform import architecture
from daemon.updater.package.host import libc, musl, this_host


@pytest.mark.parametrize(
    ("machine", "name"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("i686", "386"), ("riscv64", "riscv64")]
)
def test_machines_are_named_as_go_names_them(machine: str, name: str) -> None:
    assert architecture(machine) == name


def test_this_host() -> None:
    host = this_host()
    assert (host.os, host.arch) == ("linux", architecture(platform.machine()))
    assert host.python == f"cp{sys.version_info.major}{sys.version_info.minor}{sys.abiflags}"
    assert host.libc == libc()
    if platform.libc_ver()[0] == "glibc":
        assert host.libc == "-".join(platform.libc_ver())


def test_musl_is_known_by_its_loader(tmp_path: Path) -> None:
    assert musl(tmp_path) == ""
    (tmp_path / "ld-musl-a.so.1").write_bytes(b"\x7fELF no version")
    assert musl(tmp_path) == ""
    (tmp_path / "ld-musl-b.so.1").symlink_to("missing")
    (tmp_path / "ld-musl-x86_64.so.1").write_bytes(b"\x7fELF..GLIBC_2.17\x001.2.3\0musl libc (x86_64)\nVersion %s\n\0")
    assert musl(tmp_path) == "musl-1.2.3"
