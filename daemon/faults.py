"""Fault points for tests: ``HOSTDAEMON_FAULT=point:n[:kind]`` breaks the daemon at a named step.

Inert unless the variable is set. ``n`` counts from 1: the n-th passage through the point is the one
that breaks. Kinds: ``crash`` (default; SIGKILL to ourselves, so nothing is cleaned up), ``enospc`` and
``eio`` (an ``OSError`` as the disk would raise it, at this and every later passage). Several points
are separated by commas. Every kill test uses them.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping

VARIABLE = "HOSTDAEMON_FAULT"
_KINDS = frozenset({"crash", "enospc", "eio"})


class Faults:
    """The fault points of one process.

    Args:
        text: the value of ``HOSTDAEMON_FAULT``; empty means inert.

    Raises:
        ValueError: the text is not ``point:n[:kind]``.
    """

    def __init__(self, text: str = "") -> None:
        self._rules: dict[str, tuple[int, str]] = {}
        self._passed: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            fields = part.split(":")
            if len(fields) not in (2, 3) or not fields[1].isdigit() or int(fields[1]) < 1:
                raise ValueError(f"{VARIABLE}: {part!r} is not point:n[:crash|enospc|eio]")
            kind = fields[2] if len(fields) == 3 else "crash"
            if kind not in _KINDS:
                raise ValueError(f"{VARIABLE}: unknown kind {kind!r} in {part!r}")
            self._rules[fields[0]] = (int(fields[1]), kind)

    def hit(self, point: str) -> None:
        """Passes the point, or breaks there.

        Raises:
            OSError: ENOSPC or EIO, when that was asked for.
        """
        if not self._rules:
            return
        rule = self._rules.get(point)
        if rule is None:
            return
        n, kind = rule
        self._passed[point] = passed = self._passed.get(point, 0) + 1
        if kind == "crash":
            if passed == n:
                os.kill(os.getpid(), signal.SIGKILL)
        elif passed >= n:
            number = errno.ENOSPC if kind == "enospc" else errno.EIO
            raise OSError(number, f"{os.strerror(number)} (fault point {point})")


_active = Faults()


def arm(environ: Mapping[str, str]) -> None:
    """Takes the fault points from the environment; called once by a program's entry module."""
    global _active
    _active = Faults(environ.get(VARIABLE, ""))


def hit(point: str) -> None:
    """Passes a fault point of this process; see :meth:`Faults.hit`."""
    _active.hit(point)
