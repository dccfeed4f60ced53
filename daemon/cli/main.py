"""The command tree of ``hostctl``, and the one place where faults become messages and exit statuses.

Each group of commands is a module of its own, imported only when one of its commands is run.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Sequence

import click

import daemon
from daemon.cli import streams
from daemon.cli.faults import CliFault, Exit
from daemon.cli.options import files, output_option
from daemon.cli.session import Session, is_terminal
from daemon.cli.words import printable
from daemon.errors import DaemonError

PROGRAM = "hostctl"
DEBUG = "HOSTCTL_DEBUG"
COMPLETE = "_HOSTCTL_COMPLETE"  # set by the scripts of `hostctl completion`
COMMANDS = {  # name -> module, in the order of the help
    "status": "status", "start": "operate", "stop": "operate", "restart": "operate", "logs": "logs",
    "top": "top", "metrics": "metrics", "events": "events", "alerts": "alerts", "config": "config",
    "update": "update", "updates": "update", "rollback": "update", "node": "node", "pid": "pid",
    "diagnostics": "diagnostics", "init": "init", "completion": "completion",
}

ELSEWHERE = {  # what supervisorctl, systemctl and others call it -> here
    "tail": "hostctl logs -f ID", "journal": "hostctl logs ID", "journalctl": "hostctl logs ID",
    "list": "hostctl status", "ps": "hostctl status", "avail": "hostctl status",
    "is-active": "hostctl status ID",
    "list-units": "hostctl status", "info": "hostctl status ID", "show": "hostctl status ID",
    "kill": "hostctl stop ID --force", "signal": 'kill -HUP "$(hostctl pid ID)"',
    "reload": "hostctl config reload", "reread": "hostctl config diff", "cat": "hostctl config show",
    "daemon-reload": "hostctl config reload", "validate": "hostctl config check",
    "check": "hostctl config check",
    "enable": "enabled: true in the configuration; start is kept over restarts by itself",
    "disable": "enabled: false in the configuration; stop is kept over restarts by itself",
    "shutdown": 'kill "$(hostctl pid)"; agents run on, hostctl stop --all before it ends them too',
    "add": "an entry below agents: in the configuration", "help": "hostctl --help",
    "remove": "no entry below agents: in the configuration", "version": "hostctl --version, hostctl node",
}


class Commands(click.Group):
    """The commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a working day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None for a name that is none."""
        if cmd_name not in COMMANDS:
            return None
        found = getattr(importlib.import_module(f"daemon.cli.{COMMANDS[cmd_name]}"), f"{cmd_name}_command")
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Names the nearest command when it is none."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            if args[0] in ELSEWHERE:
                ctx.fail(f"no command {args[0]!r}; here that is: {ELSEWHERE[args[0]]}")
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            meant = f"; did you mean {near[0]}?" if near else "; hostctl --help lists them"
            ctx.fail(f"no command {printable(args[0])!r}{meant}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--socket", metavar="PATH", help="The control socket.  [env: HOSTDAEMON_CONTROL_SOCKET]",
    shell_complete=files,
)
@click.option(
    "-c", "--config", metavar="FILE", shell_complete=files,
    help="The daemon's configuration, which names its socket.  [env: HOSTDAEMON_CONFIG; default: "
    "/etc/hostdaemon/daemon.yaml]",
)
@output_option
@click.version_option(daemon.__version__, "--version", prog_name="hostctl", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, socket: str | None, config: str | None) -> None:
    """Looks after the agents of this host, by asking hostdaemon.

    Exit status: 0 good, 1 failed, 2 wrong usage, 3 something does not run or is unhealthy, 4 no such agent
    or no daemon to ask.
    """
    session = ctx.ensure_object(Session)
    session.socket, session.config = socket, config


def run(arguments: Sequence[str]) -> int:
    """Carries out one command line.

    Returns:
        the exit status; everything there is to say has been said.
    """
    streams.prepare()
    session = Session()
    try:
        asked = session.environ.get(COMPLETE)
        if asked:
            from click.shell_completion import shell_complete

            return shell_complete(cli, {"obj": session}, PROGRAM, COMPLETE, asked)
        # Not cli.main(), which has other ideas of a broken pipe and of Ctrl-C.
        with cli.make_context(PROGRAM, list(arguments), obj=session) as context:
            status = cli.invoke(context)
        sys.stdout.flush()
        return int(status) if isinstance(status, int) else Exit.OK
    except CliFault as fault:
        session.fail(fault.message, fault.hint)
        return fault.status
    except DaemonError as error:
        session.fail(str(error), "docs/errors.md says what to do about each code")
        return Exit.FAILED
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        return error.exit_code
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (KeyboardInterrupt, click.Abort):
        if is_terminal(sys.stderr):
            streams.message("\n")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        streams.nobody_reads()
        return Exit.PIPE
    except OSError as error:
        session.fail(
            f"{error.filename or 'the output'}: {error.strerror or error}",
            "look at its permissions and the room on its disk",
        )
        return Exit.FAILED
    except Exception as error:  # the last fence: people get a sentence, whoever debugs gets the rest
        if session.environ.get(DEBUG):
            raise
        what, theirs = f"{type(error).__name__}: {error}", session.other_version()
        if theirs:
            session.fail(
                f"hostctl {daemon.__version__} does not understand what the daemon, {theirs}, answers "
                f"({what})",
                f"use the hostctl of {theirs}: bin/hostctl where the daemon is installed",
            )
        else:
            session.fail(
                f"a fault of hostctl, or an answer it does not understand: {what}",
                f"{DEBUG}=1 shows where it happened, for a report",
            )
        return Exit.FAILED

