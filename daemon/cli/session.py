"""One run of ``hostctl``: whom it asks, how it answers. Data goes to stdout, messages go to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from functools import cached_property
from typing import Any, TextIO

import daemon
from daemon.cli.client import Client
from daemon.cli.faults import CliFault
from daemon.cli.streams import message
from daemon.cli.table import painted
from daemon.cli.where import find_socket
from daemon.cli.words import printable

VERSION_S = 2.0  # patience with the daemon's version, where something failed already


class Output(StrEnum):
    """The form of what goes to stdout."""

    HUMAN = "human"
    JSON = "json"
    YAML = "yaml"


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads it."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def in_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether colours are wanted: a terminal that has some, and no NO_COLOR (no-color.org)."""
    return is_terminal(stream) and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def columns_and_lines(environ: Mapping[str, str]) -> tuple[int, int]:
    """The size of the terminal on stdout; COLUMNS and LINES win. shutil, slow to import, knows it too."""
    try:
        columns, lines = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):  # none
        columns, lines = 0, 0
    asked = [environ.get(name, "") for name in ("COLUMNS", "LINES")]
    wanted = [int(text) if text.isascii() and text.isdecimal() else 0 for text in asked]
    return wanted[0] or columns or 80, wanted[1] or lines or 24


class Session:
    """See the module.

    Attributes:
        socket, config: the options; None where they were not given.
        output: the form of the data.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.environ = environ
        self.socket: str | None = None
        self.config: str | None = None
        self.output = Output.HUMAN

    @cached_property
    def client(self) -> Client:
        """The daemon that was named; finding its socket may read the configuration."""
        return Client(find_socket(self.socket, self.config, self.environ))

    def other_version(self) -> str:
        """The daemon's version, where it can be asked and is not ours; else empty."""
        if "client" not in self.__dict__:  # nobody was asked
            return ""
        try:
            theirs = str(Client(self.client.where, VERSION_S).get("/v1/node")["daemon_version"])
        except (CliFault, LookupError):
            return ""
        return "" if theirs == daemon.__version__ else theirs

    @property
    def human(self) -> bool:
        """Whether stdout is for people."""
        return self.output is Output.HUMAN

    @property
    def live(self) -> bool:
        """Whether stdout is a terminal that can be drawn on."""
        return is_terminal(sys.stdout) and self.environ.get("TERM") != "dumb"

    @property
    def colours(self) -> bool:
        """Whether tables are painted."""
        return in_colour(sys.stdout, self.environ)

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None off one: nothing is cut there."""
        return columns_and_lines(self.environ)[0] if is_terminal(sys.stdout) else None

    def emit(self, data: Any, human: Callable[[], str]) -> None:
        """Writes one answer: ``data`` as JSON or YAML, or the text that ``human`` makes."""
        if self.output is Output.JSON:
            import json

            self.write(json.dumps(data, indent=2) + "\n")
        elif self.output is Output.YAML:
            self.write(as_yaml(data))
        else:
            self.write(human())

    def emit_item(self, data: Any, human: Callable[[], str]) -> None:
        """Writes one of many: a line of JSON, a document of YAML, or text; at once."""
        if self.output is Output.JSON:
            import json

            self.write(json.dumps(data) + "\n")
        elif self.output is Output.YAML:
            self.write("---\n" + as_yaml(data))
        else:
            self.write(human())
        sys.stdout.flush()

    def write(self, text: str) -> None:
        """To stdout, as it is."""
        sys.stdout.write(text)

    def say(self, text: str) -> None:
        """A message to stderr."""
        message(f"hostctl: {printable(text)}\n")

    def fail(self, cause: str, hint: str = "") -> None:
        """A fault to stderr: the cause, and the next step."""
        colours = in_colour(sys.stderr, self.environ)
        text = painted("hostctl: ", "red", colours) + printable(cause) + "\n"
        if hint:
            text += "  " + painted("next: ", "cyan", colours) + printable(hint) + "\n"
        message(text)

    def busy(self, doing: str) -> AbstractContextManager[Any]:
        """Shows that something takes its time, on a terminal; nothing off one."""
        if not is_terminal(sys.stderr) or self.environ.get("TERM") == "dumb":
            return nullcontext()
        from rich.console import Console
        from rich.markup import escape

        return Console(stderr=True).status(escape(printable(doing)))


def as_yaml(data: Any) -> str:
    """One document; everything beyond ASCII escaped, so that a terminal obeys nothing of it."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=False, default_flow_style=False))
