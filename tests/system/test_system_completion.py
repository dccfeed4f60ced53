"""The completion of hostctl as a person meets it: in a shell on a terminal, by pressing the tabulator.

Marked ``real``: it needs bash, zsh and fish; scripts/test-real installs them.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import ROOT, Daemon, sleeper

pytestmark = pytest.mark.real
SHELLS = {  # how it is started without anybody's own settings, and what its user puts into them
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(hostctl completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -Uz compinit; compinit -u -d zcompdump; eval "$(hostctl completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "hostctl completion fish | source"),
}
_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x09\x0b-\x1f]")


class Shell:
    """A shell on a terminal that has taken the completion of hostctl.

    Args:
        name: a key of :data:`SHELLS`.
        folder: where it is and has its home.
        environ: its environment.
    """

    def __init__(self, name: str, folder: Path, environ: dict[str, str]) -> None:
        argv, setup = SHELLS[name]
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(  # fish ends at once where the terminal does not control it
            ["setsid", "--ctty", *argv], stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environ
        )
        os.close(theirs)
        self.type(f"{setup}; echo is''ready\n", until="isready")

    def type(self, text: str, until: str) -> str:
        """Types, and reads until something has come; what came, without what moves the cursor."""
        os.write(self._ours, text.encode())
        seen = b""
        end = time.monotonic() + 30
        while until not in (shown := _CONTROL.sub(b"", seen).decode("utf-8", "replace")):
            assert time.monotonic() < end, f"{text!r} came to {shown!r}, not to {until!r}"
            if select.select([self._ours], [], [], 0.1)[0]:
                seen += os.read(self._ours, 65536)
        return shown

    def clear(self) -> None:
        """Leaves the line that was begun (Ctrl-U; emacs keys are every shell's own)."""
        os.write(self._ours, b"\x15")

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait(10)
        os.close(self._ours)


@pytest.fixture(params=list(SHELLS))
def typing(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[Shell]:
    daemon.configure(sleeper("alpha-web") + sleeper("beta-web") + sleeper("gamma.db_1"))
    daemon.start()
    program = daemon.root / "bin/hostctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m daemon.cli.entry "$@"\n')
    program.chmod(0o755)
    environ = {
        "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(daemon.root), "TERM": "xterm", "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT), "HOSTDAEMON_CONFIG": str(daemon.config), "PS1": "$ ",
    }
    shell = Shell(request.param, daemon.root, environ)
    yield shell
    shell.close()


def test_commands_options_ids_and_files_are_completed(typing: Shell) -> None:
    for line, found in (
        ("hostctl diag\t", "diagnostics "), ("hostctl stop al\t", "alpha-web "), ("hostctl logs -f gam\t", "gamma.db_1 "),
        ("hostctl stop alpha-web be\t", "beta-web "), ("hostctl config sche\t", "schema "), ("hostctl --conf\t", "--config "),
        ("hostctl events --agent bet\t", "beta-web "), ("hostctl -o js\t", "json "), ("hostctl update dae\t", "daemon "),
        ("hostctl --config daemon.y\t", "daemon.yaml "),
    ):
        typing.type(line, until=found)
        typing.clear()
    shown = typing.type("hostctl stop \t\t", until="gamma.db_1")
    assert "alpha-web" in shown and "beta-web" in shown


def test_a_daemon_that_is_away_costs_no_line(typing: Shell, daemon: Daemon) -> None:
    daemon.terminate()
    typing.type("hostctl stop al\tx\n", until="no daemon runs here")
    typing.type("hostctl diag\t", until="diagnostics ")
