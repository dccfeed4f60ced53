"""From configuration to command: argv, environment, folder, and errors that say what to do."""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from agents_specs import spec_of

from daemon.agents import launch
from daemon.config.schema import AgentConfig, LimitsConfig
from daemon.errors import AgentStartError, ErrorCode

AS_ROOT = os.geteuid() == 0
DAEMON_ENV = MappingProxyType({
    "PATH": "/opt/bin:/bin", "LANG": "de_DE.UTF-8", "HOME": "/root", "SECRET": "s",
    "GRPC_VERBOSITY": "debug", "NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1",
    "LISTEN_FDS": "1", "LISTEN_PID": "1", "LD_PRELOAD": "x", "PYTHONPATH": "/x",
})
NOBODY = pwd.getpwnam("nobody")


def environment(spec: AgentConfig, daemon_env: Any = DAEMON_ENV) -> dict[str, str]:
    return launch.agent_environment(
        spec, home="/home/x", daemon_env=daemon_env, socket="/run/hb.sock", mark="m" * 32, run="r-1"
    )


def test_the_environment_is_explicit(tmp_path: Path) -> None:
    assert environment(spec_of(tmp_path, env={"X": "1", "EMPTY": ""})) == {
        "PATH": "/opt/bin:/bin", "LANG": "de_DE.UTF-8", "HOME": "/home/x", "X": "1", "EMPTY": "",
        "HOSTDAEMON_AGENT_ID": "a", "HOSTDAEMON_SOCKET": "/run/hb.sock",
        "HOSTDAEMON_MARK": "m" * 32, "HOSTDAEMON_RUN": "r-1",
    }


def test_an_empty_environment_of_ours_still_gives_a_path_and_a_locale(tmp_path: Path) -> None:
    env = environment(spec_of(tmp_path), {"PATH": "", "LANG": ""})
    assert (env["PATH"], env["LANG"]) == (launch.SANE_PATH, "C.UTF-8")


def test_what_is_written_beats_ours_but_nobody_forges_the_mark(tmp_path: Path) -> None:
    written = {"PATH": "/mine", "HOME": "/h", "HOSTDAEMON_MARK": "forged", "HOSTDAEMON_AGENT_ID": "other",
               "HOSTDAEMON_RUN": "x", "HOSTDAEMON_SOCKET": "/tmp/x"}
    env = environment(spec_of(tmp_path, env=written))
    assert (env["PATH"], env["HOME"]) == ("/mine", "/h")
    assert (env["HOSTDAEMON_MARK"], env["HOSTDAEMON_AGENT_ID"]) == ("m" * 32, "a")
    assert (env["HOSTDAEMON_RUN"], env["HOSTDAEMON_SOCKET"]) == ("r-1", "/run/hb.sock")


def test_the_mark_comes_last_for_programs_that_paint_over_their_environment(tmp_path: Path) -> None:
    env = environment(spec_of(tmp_path, env={"HOSTDAEMON_MARK": "x", "ZZZ": "1"}))
    assert list(env)[-1] == "HOSTDAEMON_MARK"


@pytest.mark.parametrize(
    ("changes", "account", "argv"),
    [
        ({}, (-1, -1), ("/bin/true",)),
        ({"args": ("-c", "x y")}, (-1, -1), ("/bin/true", "-c", "x y")),
        (
            {"limits": LimitsConfig(nofile=64)}, (-1, -1),
            ("prlimit", "--nofile=64", "--", "/bin/true"),
        ),
        (
            {"limits": LimitsConfig(nofile=64, core=1024)}, (-1, -1),
            ("prlimit", "--nofile=64", "--core=1024", "--", "/bin/true"),
        ),
        (
            {"user": "nobody"}, (65534, 65534),
            ("setpriv", "--reuid=65534", "--regid=65534", "--init-groups", "--", "/bin/true"),
        ),
        (
            {"user": "1234", "group": "99"}, (1234, 99),
            ("setpriv", "--reuid=1234", "--regid=99", "--clear-groups", "--", "/bin/true"),
        ),
        ({"group": "99"}, (-1, 99), ("setpriv", "--regid=99", "--clear-groups", "--", "/bin/true")),
        (
            {"user": "nobody", "limits": LimitsConfig(core=1), "args": ("--help",)}, (65534, 65534),
            ("prlimit", "--core=1", "--", "setpriv", "--reuid=65534", "--regid=65534", "--init-groups", "--",
             "/bin/true", "--help"),
        ),
    ],
)
def test_limits_and_users_are_set_by_prlimit_and_setpriv(
    tmp_path: Path, changes: dict[str, Any], account: tuple[int, int], argv: tuple[str, ...]
) -> None:
    spec = spec_of(tmp_path, **changes)
    assert launch.wrapped(spec, account, prlimit="prlimit", setpriv="setpriv") == argv


def test_accounts_are_looked_up_by_name_and_number() -> None:
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    assert launch.account_of("", "") == (-1, -1)
    assert launch.account_of("nobody", "") == (uid, gid)
    assert launch.account_of(str(uid), "") == (uid, gid)
    assert launch.account_of("nobody", "0") == (uid, 0)
    assert launch.account_of("", grp.getgrgid(0).gr_name) == (-1, 0)
    assert launch.account_of("54321", "54321") == (54321, 54321)


BIG = str(2**40)
ALL_ONES = str(2**32 - 1)  # (uid_t)-1: chown(2) takes it for "leave as it is"


@pytest.mark.parametrize(
    ("user", "group", "words"),
    [
        ("no-such-user", "", "'no-such-user' is not in the user database; create it or correct user"),
        ("54321", "", "'54321' is not in the user database; write group as well"),
        ("nobody", "no-such-group", "'no-such-group' does not exist; create it or correct group"),
        (BIG, "0", "correct user"),
        (ALL_ONES, "0", "correct user"),
        ("nobody", BIG, "correct group"),
        ("nobody", ALL_ONES, "correct group"),
    ],
)
def test_an_account_that_is_none_says_how_to_correct_it(user: str, group: str, words: str) -> None:
    with pytest.raises(AgentStartError, match=re.escape(words)) as caught:
        launch.account_of(user, group)
    assert caught.value.code is ErrorCode.AGENT_START


def plain_file(root: Path) -> Path:
    path = root / "plain"
    path.write_text("text")
    path.chmod(0o644)
    return path


def fifo(root: Path) -> Path:
    os.mkfifo(root / "fifo", 0o755)
    return root / "fifo"


@pytest.mark.parametrize(
    ("binary", "words"),
    [
        (lambda root: "filebeat", "neither beside the daemon's python nor on PATH; install it or write"),
        (lambda root: root / "missing", "No such file or directory; install it or correct binary_path"),
        (lambda root: root, "is a directory; correct binary_path"),
        (plain_file, "is not executable; chmod +x it or correct binary_path"),
        (fifo, "is not executable; chmod"),
        (lambda root: plain_file(root) / "below", "Not a directory; install it or correct binary_path"),
        (lambda root: f"{root}/{'x' * 300}", "File name too long"),
    ],
)
def test_a_binary_that_cannot_run_says_why_and_what_to_do(
    tmp_path: Path, binary: Callable[[Path], object], words: str
) -> None:
    with pytest.raises(AgentStartError, match=re.escape(words)):
        launch.check_binary(spec_of(tmp_path, binary_path=str(binary(tmp_path))))


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AgentStartError, match="c.yaml does not exist; create or correct it"):
        launch.check_binary(spec_of(tmp_path, config_file=str(tmp_path / "c.yaml")))
    (tmp_path / "c.yaml").touch()
    launch.check_binary(spec_of(tmp_path, config_file=str(tmp_path / "c.yaml")))


def test_homes_come_from_the_user_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/ours")
    assert launch.home_of("") == "/ours"
    assert launch.home_of("nobody") == NOBODY.pw_dir
    assert launch.home_of(str(NOBODY.pw_uid)) == NOBODY.pw_dir
    assert launch.home_of("54321") == "/"
    monkeypatch.delenv("HOME")
    assert launch.home_of("") == pwd.getpwuid(os.getuid()).pw_dir


def test_the_folder_is_made_0755_whatever_the_umask_and_left_alone_when_it_is_there(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    old = os.umask(0o077)
    try:
        launch.prepare_work_dir(spec)
    finally:
        os.umask(old)
    folder = Path(spec.work_dir)
    assert folder.stat().st_mode & 0o7777 == 0o755
    folder.chmod(0o700)
    launch.prepare_work_dir(spec)
    assert folder.stat().st_mode & 0o7777 == 0o700


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    blocked = plain_file(tmp_path)
    for work_dir in (blocked, blocked / "below"):
        with pytest.raises(AgentStartError, match="cannot be made: .*; make it or correct work_dir"):
            launch.prepare_work_dir(spec_of(tmp_path, work_dir=str(work_dir)))


def test_a_folder_swapped_for_a_link_gives_nothing_away(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    (tmp_path / "work").symlink_to(victim)
    with pytest.raises(OSError, match="Not a directory|Too many levels"):
        launch.make_folder(tmp_path / "work", (65534, 65534))
    assert victim.stat().st_uid == os.geteuid()
    assert victim.stat().st_mode & 0o777 == 0o700


def test_an_unknown_user_leaves_no_folder_with_the_wrong_owner(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, user="nobody", group="no-such-group")
    with pytest.raises(AgentStartError, match="no-such-group"):
        launch.prepare_work_dir(spec)
    assert not Path(spec.work_dir).exists()


@pytest.mark.skipif(not AS_ROOT, reason="only root gives files away")
def test_the_folder_belongs_to_the_agents_user(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, user="nobody")
    launch.prepare_work_dir(spec)
    found = Path(spec.work_dir).stat()
    assert (found.st_uid, found.st_gid) == (NOBODY.pw_uid, NOBODY.pw_gid)


def build(spec: AgentConfig) -> launch.Launch:
    return launch.build_launch(spec, daemon_env=DAEMON_ENV, socket="/run/hb.sock", mark="m", run="r")


def test_a_launch_has_everything_an_exec_needs(tmp_path: Path) -> None:
    made = build(spec_of(tmp_path, args=("-x",), umask=0o027))
    assert made.argv == ("/bin/true", "-x")
    assert (made.cwd, made.umask) == (str(tmp_path / "agents" / "a"), 0o027)
    assert made.env["HOSTDAEMON_SOCKET"] == "/run/hb.sock"
    assert not [name for name in made.env if re.match(r"GRPC_|NOTIFY_|WATCHDOG_|LISTEN_|SECRET|LD_", name)]


def test_an_agents_own_socket_is_told_to_it(tmp_path: Path) -> None:
    assert build(spec_of(tmp_path, socket_path="/tmp/own.sock")).env["HOSTDAEMON_SOCKET"] == "/tmp/own.sock"


def test_limits_use_the_prlimit_of_the_host(tmp_path: Path) -> None:
    argv = build(spec_of(tmp_path, limits=LimitsConfig(nofile=64))).argv
    assert argv[0].endswith("/prlimit") and argv[0].startswith("/")
    assert argv[1:] == ("--nofile=64", "--", "/bin/true")


@pytest.mark.skipif(not AS_ROOT, reason="only root changes users")
def test_a_user_is_set_by_the_setpriv_of_the_host(tmp_path: Path) -> None:
    made = build(spec_of(tmp_path, user="nobody"))
    assert made.argv[0].startswith("/") and made.argv[0].endswith("/setpriv")
    assert made.env["HOME"] == NOBODY.pw_dir


def test_a_user_without_root_is_refused_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(AgentStartError, match="need the daemon to run as root; run it as root or leave"):
        build(spec_of(tmp_path, user="nobody"))


def test_missing_util_linux_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "SANE_PATH", str(tmp_path))
    with pytest.raises(AgentStartError, match="prlimit is needed .*; install util-linux"):
        build(spec_of(tmp_path, limits=LimitsConfig(core=1)))
