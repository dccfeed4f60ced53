"""``hostctl completion``."""

from __future__ import annotations

import sys

import click
from click.shell_completion import get_completion_class

from daemon.cli.faults import Exit
from daemon.cli.options import command
from daemon.cli.session import Session, is_terminal

_INSTALL = {
    "bash": 'put into ~/.bashrc: eval "$(hostctl completion bash)"',
    "zsh": 'put into ~/.zshrc, after compinit: eval "$(hostctl completion zsh)"',
    "fish": "hostctl completion fish > ~/.config/fish/completions/hostctl.fish",
}


@command("completion")
@click.argument("shell", type=click.Choice(list(_INSTALL)))
def completion_command(session: Session, shell: str) -> int:
    """Prints what lets a shell complete commands, options and ids."""
    from daemon.cli.main import COMPLETE, PROGRAM, cli

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(cli, {}, PROGRAM, COMPLETE)
    # Not made.source(), which runs the shell to ask for its version.
    script = made.source_template % made.source_vars()
    session.emit({"shell": shell, "script": script}, lambda: script)
    if is_terminal(sys.stdout):
        session.say(_INSTALL[shell])
    return Exit.OK
