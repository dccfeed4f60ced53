"""Who the node is: an id that is kept, told apart from a clone's, and made anew when it is spoilt."""

from __future__ import annotations

import ipaddress
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import faults
from daemon.control.node import ID_MAX, address_towards, kept_node_id, local_address, node_facts
from daemon.errors import StorageError

MACHINE, OTHER = "a" * 32, "b" * 32
OLD = "5f0c3a1e-8f43-4f3c-9b6e-0d1f1c1f2a3b"


def is_uuid(text: str) -> bool:
    return str(uuid.UUID(text)) == text


def test_the_first_start_makes_an_id_and_keeps_it_0600(tmp_path: Path) -> None:
    made, replaced = kept_node_id(tmp_path, MACHINE)
    assert is_uuid(made) and replaced == ""
    assert (tmp_path / "node_id").read_text() == f"{made}\n{MACHINE}\n"
    assert (tmp_path / "node_id").stat().st_mode & 0o777 == 0o600
    for _ in range(3):
        assert kept_node_id(tmp_path, MACHINE) == (made, "")


def test_a_clone_on_another_machine_gets_a_new_id_once(tmp_path: Path) -> None:
    made, _ = kept_node_id(tmp_path, MACHINE)
    new, replaced = kept_node_id(tmp_path, OTHER)
    assert replaced == made and new != made and is_uuid(new)
    assert kept_node_id(tmp_path, OTHER) == (new, "")


def test_without_a_machine_id_the_id_is_kept(tmp_path: Path) -> None:
    made, _ = kept_node_id(tmp_path, "")
    assert kept_node_id(tmp_path, "") == (made, "")
    (tmp_path / "node_id").write_text(f"{OLD}\n{MACHINE}\n")
    assert kept_node_id(tmp_path, "") == (OLD, "")


def test_an_id_written_by_hand_is_kept(tmp_path: Path) -> None:
    (tmp_path / "node_id").write_text(OLD)
    assert kept_node_id(tmp_path, MACHINE) == (OLD, "")
    (tmp_path / "node_id").write_text(f"  {OLD.upper()} {MACHINE}  ")
    assert kept_node_id(tmp_path, MACHINE) == (OLD, "")


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"\0" * 40, b"not-a-uuid\n" + MACHINE.encode(), OLD[:-1].encode(), b"\xff\xfe", b"x" * (ID_MAX + 1),
     OLD.encode() + b" " * ID_MAX],
)
def test_a_spoilt_file_is_replaced_by_a_new_id(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "node_id").write_bytes(data)
    made, replaced = kept_node_id(tmp_path, MACHINE)
    assert is_uuid(made) and made != OLD and replaced == ""
    assert kept_node_id(tmp_path, MACHINE) == (made, "")


def link(path: Path) -> None:
    (path.parent / "elsewhere").write_text(f"{OLD}\n{MACHINE}\n")
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("make", [link, os.mkfifo])
def test_a_link_or_fifo_is_replaced_and_not_followed(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "node_id")
    made, _ = kept_node_id(tmp_path, MACHINE)
    assert made != OLD
    assert not (tmp_path / "node_id").is_symlink()
    if (tmp_path / "elsewhere").exists():
        assert (tmp_path / "elsewhere").read_text() == f"{OLD}\n{MACHINE}\n"


def test_an_id_that_cannot_be_stored_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "node_id").mkdir()
    with pytest.raises(StorageError, match="node_id"):
        kept_node_id(tmp_path, MACHINE)
    with pytest.raises(StorageError, match="node_id"):
        kept_node_id(tmp_path / "missing", MACHINE)
    (tmp_path / "node_id").rmdir()
    faults.arm({faults.VARIABLE: "atomic.write:1:enospc"})
    try:
        with pytest.raises(StorageError, match="free space"):
            kept_node_id(tmp_path, MACHINE)
    finally:
        faults.arm({})
    assert not (tmp_path / "node_id").exists()


def test_facts_name_this_host(tmp_path: Path) -> None:
    facts = node_facts(tmp_path, "")
    assert facts.node_id == (tmp_path / "node_id").read_text().split()[0]
    assert facts.hostname and facts.os == "linux"
    assert facts.arch not in ("x86_64", "aarch64")
    ipaddress.ip_address(facts.ip)
    assert facts.replaced == ""


def test_a_configured_id_is_taken_as_it_is_and_nothing_is_stored(tmp_path: Path) -> None:
    assert node_facts(tmp_path, "rack7").node_id == "rack7"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("towards", ["127.0.0.1", "192.0.2.1", "::1", ""])
def test_our_address_is_always_one(towards: str) -> None:
    ipaddress.ip_address(local_address(towards))


def test_our_address_towards_loopback_is_loopback() -> None:
    assert local_address("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("no.such.host.invalid", "")])
def test_the_address_towards_a_host_is_of_its_family_and_empty_without_a_route(host: str, own: str) -> None:
    assert address_towards(host) == own
