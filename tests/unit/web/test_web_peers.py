"""Who may use the control socket."""

from __future__ import annotations

import grp
import os
import pwd
import socket

import pytest

from daemon.web.peers import GID_MAX, ControlPeer, control_peer, group_id, groups_of, may_control


def peer(uid: int, gid: int = 7) -> ControlPeer:
    return ControlPeer(pid=1, uid=uid, gid=gid)


@pytest.mark.parametrize(
    ("uid", "groups", "control_gid", "allowed"),
    [
        (0, {0}, None, True),  # root
        (1000, {7}, None, True),  # the daemon's own user
        (1001, {7}, None, False),
        (1001, {7, 50}, 50, True),  # by a supplementary group
        (1001, {7}, 7, True),
        (1001, {7}, 50, False),
        (1001, {0}, None, False),  # root's group is not root
        (65534, set(), 50, False),
        (1001, {0}, 0, True),  # control_group: root
    ],
)
def test_root_the_own_user_and_the_control_group_may(
    uid: int, groups: set[int], control_gid: int | None, allowed: bool
) -> None:
    def known(_uid: int, _gid: int) -> frozenset[int]:
        return frozenset(groups)

    assert may_control(peer(uid), own_uid=1000, control_gid=control_gid, groups=known) is allowed


def test_the_user_database_is_not_asked_without_need() -> None:
    def never(_uid: int, _gid: int) -> frozenset[int]:
        raise AssertionError("asked")

    assert may_control(peer(0), own_uid=1000, control_gid=5, groups=never)
    assert not may_control(peer(1), own_uid=1000, control_gid=None, groups=never)


def test_the_peer_of_a_unix_socket_is_this_process() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        found = control_peer(ours)
    assert found == ControlPeer(pid=os.getpid(), uid=os.geteuid(), gid=os.getegid())
    assert str(found) == f"uid {os.geteuid()} pid {os.getpid()}"


def test_another_kind_of_socket_names_nobody() -> None:
    with socket.socket(socket.AF_INET) as other:
        try:
            found = control_peer(other)
        except OSError:
            return
        assert found.uid == 2**32 - 1 and found.pid == 0  # (uid_t) -1
        assert not may_control(found, own_uid=os.geteuid(), control_gid=None)


def test_groups_are_the_connecting_one_and_those_of_the_user() -> None:
    root = pwd.getpwuid(0)
    assert groups_of(0, 99) == frozenset({99, *os.getgrouplist(root.pw_name, 99)})
    assert groups_of(54321, 12) == frozenset({12})


@pytest.mark.parametrize(
    ("name", "number"),
    [("", None), ("no-such-group", None), ("50", 50), ("0", 0), (str(GID_MAX), GID_MAX),
     (str(GID_MAX + 1), None), ("9" * 30, None), (grp.getgrgid(0).gr_name, 0)],
)
def test_a_group_is_found_by_name_or_number(name: str, number: int | None) -> None:
    assert group_id(name) == number
