"""From an agent's configuration to the command that starts it."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.config.schema import AgentConfig
from daemon.errors import AgentStartError
from daemon.procfs import marks

ACCOUNT_MAX = 2**32 - 2  # uid_t and gid_t; one more means "as it is" to chown(2)
SANE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything an exec needs.

    Attributes:
        argv: the program, with ``prlimit`` and ``setpriv`` before it where limits or a user are asked for;
            both exec the next, so the pid stays.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    umask: int


def small_environment(home: str, daemon_env: Mapping[str, str]) -> dict[str, str]:
    """PATH, LANG and HOME: all that an agent takes over from us.

    GRPC_*, NOTIFY_SOCKET, WATCHDOG_* and LISTEN_* of ours would make it speak to our service manager.
    """
    return {
        "PATH": daemon_env.get("PATH") or SANE_PATH,
        "LANG": daemon_env.get("LANG") or "C.UTF-8",
        "HOME": home,
    }


def agent_environment(
    spec: AgentConfig, *, home: str, daemon_env: Mapping[str, str], socket: str, mark: str, run: str
) -> dict[str, str]:
    """The explicit environment of an agent.

    The mark comes last: programs that write their title over their environment (redis, nginx) eat it
    from the front.
    """
    env = small_environment(home, daemon_env)
    env.update(spec.env)
    for name in (marks.AGENT_ID, marks.SOCKET, marks.RUN, marks.MARK):
        env.pop(name, None)
    env[marks.AGENT_ID] = spec.id
    env[marks.SOCKET] = socket
    env[marks.RUN] = run
    env[marks.MARK] = mark
    return env


def account_of(user: str, group: str) -> tuple[int, int]:
    """The numbers of an agent's user and group; -1 for the daemon's own.

    Raises:
        AgentStartError: the user database does not know them.
    """
    uid = gid = -1
    try:
        if user:
            entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
            uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError:
        if not (user.isdigit() and group):
            hint = "write group as well" if user.isdigit() else "create it or correct user"
            raise AgentStartError(f"user {user!r} is not in the user database; {hint}") from None
        uid = int(user)
    try:
        if group:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise AgentStartError(f"group {group!r} does not exist; create it or correct group") from None
    for key, number in (("user", uid), ("group", gid)):
        if number > ACCOUNT_MAX:
            raise AgentStartError(f"{key} {number} is larger than the largest, {ACCOUNT_MAX}; correct {key}")
    return uid, gid


def as_account(
    spec: AgentConfig, account: tuple[int, int], argv: tuple[str, ...], *, setpriv: str
) -> tuple[str, ...]:
    """A command as the agent's user and group; unchanged where it has none of its own."""
    uid, gid = account
    if uid < 0 and gid < 0:
        return argv
    privileges = [setpriv]
    if uid >= 0:
        privileges.append(f"--reuid={uid}")
    privileges.append(f"--regid={gid}")
    privileges.append("--init-groups" if spec.user and not spec.user.isdigit() else "--clear-groups")
    return (*privileges, "--", *argv)


def side_command(spec: AgentConfig, argv: tuple[str, ...]) -> tuple[str, ...]:
    """A version command or probe, run as the agent's user: its binary may be writable for that user.

    Raises:
        AgentStartError: the user is unknown or setpriv is missing.
    """
    account = account_of(spec.user, spec.group)
    return as_account(spec, account, argv, setpriv=_tool("setpriv") if max(account) >= 0 else "")


def wrapped(spec: AgentConfig, account: tuple[int, int], *, prlimit: str, setpriv: str) -> tuple[str, ...]:
    """The argument list, with util-linux's prlimit(1) and setpriv(1) before it where they are asked for."""
    argv = as_account(spec, account, (spec.binary_path, *spec.args), setpriv=setpriv)
    limits = []
    if spec.limits.nofile:
        limits.append(f"--nofile={spec.limits.nofile}")
    if spec.limits.core:
        limits.append(f"--core={spec.limits.core}")
    if limits:
        argv = (prlimit, *limits, "--", *argv)
    return argv


def check_binary(spec: AgentConfig) -> None:
    """Says in words what exec would only say by an exit code behind setpriv.

    Raises:
        AgentStartError: missing, a directory, or not executable.
    """
    path = spec.binary_path
    if "/" not in path:
        raise AgentStartError(
            f"binary {path!r} is neither beside the daemon's python nor on PATH; "
            "install it or write binary_path with its full path"
        )
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - as exec sees it
    except OSError as error:
        raise AgentStartError(
            f"binary {path}: {error.strerror}; install it or correct binary_path"
        ) from error
    if stat.S_ISDIR(mode):
        raise AgentStartError(f"binary {path} is a directory; correct binary_path")
    if not stat.S_ISREG(mode) or not mode & 0o111:
        raise AgentStartError(f"binary {path} is not executable; chmod +x it or correct binary_path")
    if spec.config_file and not os.access(spec.config_file, os.F_OK):
        raise AgentStartError(f"config_file {spec.config_file} does not exist; create or correct it")


def home_of(user: str) -> str:
    """The home directory of a user (ours when empty); ``/`` when the user database knows none."""
    if not user:
        user = str(os.getuid())
        if os.environ.get("HOME"):
            return os.environ["HOME"]
    try:
        return pwd.getpwuid(int(user)).pw_dir if user.isdigit() else pwd.getpwnam(user).pw_dir
    except KeyError:
        return "/"


def make_folder(path: Path, account: tuple[int, int]) -> None:
    """Makes one folder, 0755 whatever the umask, and gives it to an account.

    By its descriptor, never by its name: who owns the directory above could put a link to another file
    in its place between two calls and have that one given away.

    Raises:
        OSError: it cannot be made, or something else stands in its place by now.
    """
    path.mkdir(mode=0o755, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "somebody else put a folder of theirs in its place")
        os.fchmod(fd, 0o755)
        if max(account) >= 0:
            os.fchown(fd, *account)
    finally:
        os.close(fd)


def prepare_work_dir(spec: AgentConfig) -> None:
    """Makes the agent's folder (0755, owned by its user) where it is missing.

    Raises:
        AgentStartError: it cannot be made.
    """
    path = Path(spec.work_dir)
    account = account_of(spec.user, spec.group)  # first: a folder left behind would keep the wrong owner
    try:
        if path.is_dir():
            return
        if os.path.lexists(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        missing = [each for each in (path, *path.parents) if not each.exists()]
        for each in reversed(missing):
            make_folder(each, account if each == path else (-1, -1))
    except OSError as error:
        raise AgentStartError(
            f"work_dir {path} of agent {spec.id} cannot be made: {error}; make it or correct work_dir"
        ) from error


def check_launch(spec: AgentConfig) -> None:
    """Everything that can be checked before a spawn; makes the agent's folder.

    Raises:
        AgentStartError: see :func:`check_binary`, :func:`account_of`, :func:`prepare_work_dir`.
    """
    check_binary(spec)
    if (spec.user or spec.group) and os.geteuid() != 0:
        raise AgentStartError(
            f"user/group of agent {spec.id} need the daemon to run as root; "
            "run it as root or leave user and group out"
        )
    prepare_work_dir(spec)


def build_launch(
    spec: AgentConfig, *, daemon_env: Mapping[str, str], socket: str, mark: str, run: str
) -> Launch:
    """The launch of an agent, everything that can be checked beforehand checked.

    Raises:
        AgentStartError: see :func:`check_launch`.
    """
    check_launch(spec)
    prlimit = setpriv = ""
    if spec.user or spec.group:
        setpriv = _tool("setpriv")
    if spec.limits.nofile or spec.limits.core:
        prlimit = _tool("prlimit")
    return Launch(
        argv=wrapped(spec, account_of(spec.user, spec.group), prlimit=prlimit, setpriv=setpriv),
        env=agent_environment(
            spec, home=home_of(spec.user), daemon_env=daemon_env,
            socket=spec.socket_path or socket, mark=mark, run=run,
        ),
        cwd=spec.work_dir,
        umask=spec.umask,
    )


def _tool(name: str) -> str:
    found = shutil.which(name, path=SANE_PATH)
    if found is None:
        raise AgentStartError(f"{name} is needed for user, group or limits; install util-linux")
    return found
