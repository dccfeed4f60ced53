"""What each type of agent brings with it, and the search for a bare binary name.

Precedence per key: the agent, then ``agent_defaults``, then the type's profile, then built in.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.config.schema import AgentType

PLACEHOLDER = re.compile(r"\{(binary_path|config_file|work_dir)\}")
"""Filled in, in profiles and in written ``args``, ``version_command`` and ``health_check.command``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The own settings of a type.

    Attributes:
        args: argument groups; one that names ``{config_file}`` is left out where the agent has none.
        version_command: prints the version; empty: nothing is run.
        health_check: defaults of that section.
        sends_heartbeats: whether agents of the type may send any.
    """

    args: tuple[tuple[str, ...], ...] = ()
    version_command: tuple[str, ...] = ()
    health_check: Mapping[str, Any] = field(default_factory=dict)
    sends_heartbeats: bool = False


PROFILES: Mapping[AgentType, Profile] = {
    AgentType.FILEBEAT: Profile(
        args=(("-c", "{config_file}"), ("-path.home", "{work_dir}")),
        version_command=("{binary_path}", "version"),
    ),
    AgentType.TELEGRAF: Profile(
        args=(("--config", "{config_file}"),),
        version_command=("{binary_path}", "--version"),
    ),
    AgentType.NODE_EXPORTER: Profile(
        args=(("--web.listen-address=:9100",), ("--path.procfs=/proc",), ("--path.sysfs=/sys",)),
        version_command=("{binary_path}", "--version"),
        health_check={"http_endpoint": "http://127.0.0.1:9100/metrics"},
    ),
    AgentType.CUSTOM: Profile(args=(("-config", "{config_file}"),), sends_heartbeats=True),
}


def profile_args(profile: Profile, values: Mapping[str, str]) -> list[str]:
    """The type's own arguments, filled in."""
    words: list[str] = []
    for group in profile.args:
        if values["config_file"] or not any("{config_file}" in word for word in group):
            words.extend(group)
    return fill(words, values)


def fill(words: Iterable[str], values: Mapping[str, str]) -> list[str]:
    """The words with ``{binary_path}``, ``{config_file}`` and ``{work_dir}`` filled in, once."""
    return [PLACEHOLDER.sub(lambda found: values[found[1]], word) for word in words]


def find_binary(name: str, *, interpreter: str, search_path: str) -> str:
    """Where a ``binary_path`` is.

    Args:
        name: a path is returned as it is; a bare name is looked up beside the interpreter (where the
            console scripts of the same installation are), then on PATH.
        interpreter: ``sys.executable``.
        search_path: the PATH of the daemon's environment.

    Returns:
        An absolute path, or the bare name where nothing was found: the start of the agent reports it.
    """
    if "/" in name:
        return name
    found = shutil.which(name, path=str(Path(interpreter).parent)) or shutil.which(name, path=search_path)
    return str(Path(found).absolute()) if found else name
