"""What ``--check`` reports beyond ``load``: files, users and groups that are not on this host.

At start none of it is fatal for the whole: an agent whose binary is missing goes to ``restarting`` with
D3001 and follows its restart table, while the others run.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from daemon.config.fault import Fault
from daemon.config.load import LoadedConfig
from daemon.config.schema import AgentConfig, Config


def missing_files(loaded: LoadedConfig) -> tuple[Fault, ...]:
    """Everything the configuration names that is not there, in the order of the file.

    Looked at: for every enabled agent the binary (which must be executable), its ``config_file``, user
    and group; the TLS files, ``update.public_key_file`` and ``daemon.control_group``.
    """
    found = [*_daemon(loaded.config)]
    for agent in loaded.config.agents:
        if agent.enabled:
            found.extend(_agent(agent, loaded.agent_paths[agent.id]))
    faults = [loaded.fault(path, message) for path, message in found]
    return tuple(sorted(faults, key=lambda fault: (fault.line, fault.column)))


def _daemon(config: Config) -> Iterator[tuple[str, str]]:
    http, grpc, link = config.daemon.http_tls, config.daemon.grpc.tls, config.manager.tls
    for path, file in (
        ("daemon.http_tls.cert_file", http.cert_file),
        ("daemon.http_tls.key_file", http.key_file),
        ("daemon.http_tls.client_ca_file", http.client_ca_file),
        ("daemon.grpc.tls.cert_file", grpc.cert_file),
        ("daemon.grpc.tls.key_file", grpc.key_file),
        ("daemon.grpc.tls.ca_file", grpc.ca_file),
        ("manager.tls.cert_file", link.cert_file),
        ("manager.tls.key_file", link.key_file),
        ("manager.tls.ca_file", link.ca_file),
        ("update.public_key_file", config.update.public_key_file),
    ):
        if file and (reason := _unreadable(file)):
            yield path, reason
    group = config.daemon.control_group
    if group and not _known(grp.getgrnam, grp.getgrgid, group):
        yield "daemon.control_group", f"there is no group {group} on this host; create it or write another"


def _agent(agent: AgentConfig, path: str) -> Iterator[tuple[str, str]]:
    if reason := _not_executable(agent.binary_path):
        yield f"{path}.binary_path", reason
    if agent.config_file and (reason := _unreadable(agent.config_file)):
        yield f"{path}.config_file", reason
    if agent.user and not _known(pwd.getpwnam, pwd.getpwuid, agent.user):
        yield f"{path}.user", f"there is no user {agent.user} on this host; create it or write another"
    if agent.group and not _known(grp.getgrnam, grp.getgrgid, agent.group):
        yield f"{path}.group", f"there is no group {agent.group} on this host; create it or write another"


def _not_executable(binary: str) -> str:
    if "/" not in binary:
        return f"{binary} is neither beside the interpreter nor on PATH; install it or write its whole path"
    if not os.access(binary, os.F_OK):
        return f"{binary} does not exist; install it or correct the path"
    if not _is_file(binary) or not os.access(binary, os.X_OK):
        return f"{binary} is not an executable file; chmod +x it or correct the path"
    return ""


def _unreadable(file: str) -> str:
    if not os.access(file, os.F_OK):
        return f"{file} does not exist; create it or correct the path"
    if not _is_file(file) or not os.access(file, os.R_OK):
        return f"{file} is not a readable file; correct its permissions or the path"
    return ""


def _is_file(file: str) -> bool:
    try:
        return stat.S_ISREG(Path(file).stat().st_mode)
    except OSError:
        return False


def _known(by_name: Callable[[str], object], by_id: Callable[[int], object], name: str) -> bool:
    """Whether an account exists; a number is its id."""
    try:
        if name.isdecimal():
            by_id(int(name))
        else:
            by_name(name)
    except (KeyError, OverflowError):
        return False
    return True
