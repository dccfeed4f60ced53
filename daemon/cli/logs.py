"""``hostctl logs``."""

from __future__ import annotations

import codecs
import sys
import time

import click

from daemon.cli import since as since_times
from daemon.cli.agents import explained_404
from daemon.cli.client import Client, segment
from daemon.cli.faults import CliFault, Refused, Unreachable
from daemon.cli.options import agent_ids, command
from daemon.cli.session import Output, Session, is_terminal
from daemon.cli.words import printable_line

LINES_MAX = 10_000  # of the API
RETRY_S = 1.0


@command("logs")
@click.argument("agent_id", metavar="ID", shell_complete=agent_ids)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(0, LINES_MAX), help="How many of the last ones.  [default: 100]"
)
@click.option("--grep", metavar="TEXT", help="Only lines that hold this text, as it is (no pattern).")
@click.option(
    "--since", metavar="WHEN",
    help="Only lines from then on (15m, 2026-11-20T10:00:00Z), of logs whose lines tell their times.",
)
def logs_command(
    session: Session, agent_id: str, follow: bool, lines: int | None, grep: str | None, since: str | None
) -> int:
    """Shows an agent's log, rotated files included.

    On a terminal, control characters in it are shown and not obeyed; elsewhere its bytes come as they are.
    """
    after = None if since is None else since_times.moment(since, time.time())
    if after is not None and follow:
        raise click.UsageError("--since looks back and --follow ahead; use one, then the other")
    if follow and session.output is not Output.HUMAN:
        raise click.UsageError("a log that is followed is text; leave --output out")
    path = f"/v1/agents/{segment(agent_id)}/logs"
    if follow:
        return _follow(session, path, agent_id, 100 if lines is None else lines, grep)
    wanted = lines if lines is not None else (LINES_MAX if after is not None else 100)
    with explained_404(session.client, agent_id):
        data = session.client.text(path, lines=wanted, grep=grep)
    if after is not None:
        data = _filtered(session, data, after, wanted)
    if session.output is Output.HUMAN:
        _Writer().write(data, final=True)
        if not data and wanted:
            session.say(_nothing(agent_id, grep, after is not None))
    else:
        texts = data.decode("utf-8", "backslashreplace").split("\n")[:-1]
        session.emit({"agent_id": agent_id, "lines": texts}, str)
    return 0


def _nothing(agent_id: str, grep: str | None, since: bool) -> str:
    if since:
        return f"{agent_id} has written nothing since then; hostctl status {agent_id}"
    if grep is not None:
        return f"no line of {agent_id} holds that text; hostctl logs {agent_id}"
    return f"{agent_id} has written nothing yet; hostctl status {agent_id}"


def _filtered(session: Session, data: bytes, after: float, wanted: int) -> bytes:
    lines = data.splitlines(keepends=True)
    kept = since_times.newer(lines, after)
    if kept is None:
        raise CliFault(
            "--since cannot be told: no line of this log carries a time that can be read",
            hint="hostctl logs ID --lines N; docs/hostctl.md lists the forms of times",
        )
    if kept and len(kept) == len(lines) >= wanted:
        session.say(f"only the last {wanted} lines were looked at; there may be earlier ones since then")
    return b"".join(kept)


def _follow(session: Session, path: str, agent_id: str, lines: int, grep: str | None) -> int:
    """Until Ctrl-C. A daemon that goes away is waited for: the agent runs on and writes on meanwhile.

    What was written while no daemon answered is not shown, for the API cannot be asked from a place on; that
    is said.
    """
    client, writer = session.client, _Writer()
    with explained_404(client, agent_id):
        cause = _copy(client, writer, path, lines, grep)
    while True:
        session.say(f"{cause}; waiting for the daemon, Ctrl-C ends")
        while True:
            time.sleep(RETRY_S)
            try:
                client.get("/livez")
                break
            except Unreachable as fault:
                if not fault.away:
                    raise
            except Refused:
                continue
        session.say(f"it is back; what {agent_id} wrote meanwhile: hostctl logs {agent_id}")
        cause = _copy(client, writer, path, 0, grep)


def _copy(client: Client, writer: _Writer, path: str, lines: int, grep: str | None) -> str:
    """Copies until the stream ends, and says why it did."""
    pieces = client.stream(path, lines=lines, grep=grep, follow=True)
    try:
        for piece in pieces:
            writer.write(piece)
    except Unreachable as fault:
        writer.write(b"", final=True)
        return fault.message
    writer.write(b"", final=True)
    return "the daemon ended the stream"


class _Writer:
    """Puts log bytes on stdout: raw, or made harmless where that is a terminal."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._decode = decoder.decode if is_terminal(sys.stdout) else None

    def write(self, data: bytes, *, final: bool = False) -> None:
        """Writes and flushes; ``final`` ends a character that was cut."""
        if self._decode is None:
            sys.stdout.buffer.write(data)
        else:
            text = self._decode(data, final)
            sys.stdout.write("\n".join(printable_line(line.removesuffix("\r")) for line in text.split("\n")))
        sys.stdout.flush()
