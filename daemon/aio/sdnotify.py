"""Talks to the service manager that started us: sd_notify(3) in a few lines of our own.

The protocol is one datagram of ``NAME=value`` lines to the socket in ``NOTIFY_SOCKET``. The variables are
taken out of the environment, for an agent must never speak to our service manager.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, MutableMapping

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock, DelayedCall

log = Logger()

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
STATUS_DELAY_S = 1.0  # after a change; a hundred agents that start are one line
# For another version to take our place, instead of the watchdog's time: what the unit gives any start, and
# some. With 30 s a daemon on a host that is slow enough could be started, but never updated.
HAND_OVER_S = 90.0
_MICRO = 1_000_000
_PING_MIN_S = 0.01  # a watchdog of microseconds must not eat the loop it watches


def watchdog_s(usec: str, for_pid: str, pid: int) -> float:
    """Seconds within which the process ``pid`` must ping; 0 when there is no watchdog or it is not ours.

    Args:
        usec: ``WATCHDOG_USEC``.
        for_pid: ``WATCHDOG_PID``; empty means whoever reads it (sd_watchdog_enabled(3)).
    """
    ours = not for_pid or for_pid == str(pid)
    number = usec.isascii() and usec.isdigit() and len(usec) < 20
    return int(usec) / _MICRO if ours and number else 0.0


def _watchdog_usec(time_s: float) -> str:
    """Sets the watchdog's time, which counts anew."""
    return f"WATCHDOG_USEC={round(time_s * _MICRO)}"


class ServiceManager:
    """The service manager; without one every method does nothing.

    Args:
        environ: ours; the variables are removed from it.
        clock: for the watchdog.
        pid: ours; a watchdog meant for another process is not ours to feed.
        monotonic_us: CLOCK_MONOTONIC in microseconds, for RELOADING.

    Attributes:
        variables: as they were found, for a successor in this process.
        watchdog_s: seconds within which a ping must come, 0 for no watchdog.
        failures_total: datagrams that could not be sent.
    """

    def __init__(
        self, environ: MutableMapping[str, str], clock: Clock, pid: int,
        monotonic_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        self.variables = {name: environ.pop(name) for name in VARIABLES if name in environ}
        address, usec, for_pid = (self.variables.get(name, "") for name in VARIABLES)
        self._clock = clock
        self._monotonic_us = monotonic_us
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._pings: Periodic | None = None
        self._describe: Callable[[], str] | None = None
        self._status_said = ""
        self._status_soon: DelayedCall | None = None
        self._complained = False
        self.failures_total = 0
        self.watchdog_s = watchdog_s(usec, for_pid, pid) if self._address else 0.0

    @property
    def present(self) -> bool:
        """Whether a service manager listens."""
        return bool(self._address)

    def ready(self, status: str, pid: int) -> None:
        """The start or a reload is over. The pid is told, for a daemonised twistd has another one."""
        self._status_said = status
        self._send("READY=1", f"STATUS={status}", f"MAINPID={pid}")

    def keep_status(self, describe: Callable[[], str]) -> None:
        """From now on ``describe()`` is the line of ``systemctl status``, told anew after :meth:`changed`."""
        self._describe = describe

    def changed(self) -> None:
        """What the line tells may have changed; it is told soon, when it did."""
        if self._address and self._describe is not None and self._status_soon is None:
            self._status_soon = self._clock.callLater(STATUS_DELAY_S, self._tell_status)

    def _tell_status(self) -> None:
        self._status_soon = None
        text = self._describe() if self._describe is not None else self._status_said
        if text != self._status_said:
            self._status_said = text
            self._send(f"STATUS={text}")

    def reloading(self) -> None:
        """A reload begins. Both lines in one datagram: newer versions wait for ever without the time."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic_us()}")

    def giving_way(self, version: str) -> None:
        """Another version takes over in this process; the watchdog waits for it from now on,
        :data:`HAND_OVER_S` at least, until that version feeds it."""
        self._send(
            "RELOADING=1", f"MONOTONIC_USEC={self._monotonic_us()}",
            *([_watchdog_usec(max(self.watchdog_s, HAND_OVER_S))] if self.watchdog_s else []), "WATCHDOG=1",
            f"STATUS=giving way to version {version}; agents run on",
        )

    def stopping(self) -> None:
        """The end begins."""
        self._describe = None
        if self._status_soon is not None:
            self._status_soon.cancel()
            self._status_soon = None
        self._send("STOPPING=1", "STATUS=stopping; agents run on")

    def feed_watchdog(self, healthy: Callable[[], bool]) -> None:
        """Pings twice within the watchdog's time from now on, as long as ``healthy()`` says so.

        It runs on the reactor: a loop that stands still pings no more. The time is told first, for the
        version before us in this process may have asked for more.
        """
        if self.watchdog_s and self._pings is None:
            self._send(_watchdog_usec(self.watchdog_s))
            self._pings = periodic(
                self._clock, max(_PING_MIN_S, self.watchdog_s / 2),
                lambda: self._send("WATCHDOG=1") if healthy() else None, name="watchdog",
            )

    def stop(self) -> Deferred[None]:
        """Ends the pings."""
        pings, self._pings = self._pings, None
        return pings.stop() if pings is not None else succeed(None)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
                out.sendto(text.encode("utf-8", "replace"), self._address)
        except OSError as error:
            self.failures_total += 1
            if not self._complained:
                self._complained = True
                log.warn("the service manager does not hear us: {error}", error=str(error))
