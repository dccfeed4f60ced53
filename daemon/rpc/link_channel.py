"""The one channel of the link: reused, and replaced only for other certificates or another Manager."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock, ThreadReactor
from daemon.aio.threads import Threads
from daemon.alerts.expiry import CHECK_EVERY_S
from daemon.config.schema import ManagerConfig
from daemon.errors import ErrorCode, ManagerConnectError
from daemon.interfaces import AlertSink, WallClock
from daemon.rpc.channel import ManagerCalls, ManagerChannel
from daemon.rpc.link_identity import LinkIdentity
from daemon.rpc.link_state import Notes

if TYPE_CHECKING:
    from daemon.rpc.tls import PemSet

FILES_S = 30.0  # between two looks at the certificate files: three stat(2)

Dial = Callable[[ManagerConfig, "PemSet | None"], ManagerCalls]


def grpc_dial(reactor: ThreadReactor) -> Dial:
    """Makes real channels."""

    def dial(config: ManagerConfig, pem: PemSet | None) -> ManagerCalls:
        if pem is None:
            return ManagerChannel(reactor, config, None)
        from daemon.rpc.tls import client_credentials

        return ManagerChannel(reactor, config, client_credentials(pem))

    return dial


class LinkChannel:
    """The channel and its certificates.

    Args:
        config: address, certificates, timeout.
        clock: the timers.
        threads: where files are read.
        wall: for certificates.
        alerts: hears of certificates that end.
        notes: hears of files that cannot be used.
        dial: makes a channel.
    """

    log = Logger()

    def __init__(
        self, config: ManagerConfig, clock: Clock, threads: Threads, wall: WallClock, alerts: AlertSink,
        notes: Notes, dial: Dial,
    ) -> None:
        self._config = config
        self._clock = clock
        self._threads = threads
        self._wall = wall
        self._alerts = alerts
        self._notes = notes
        self._dial = dial
        self._identity = LinkIdentity(config.tls, threads, wall, alerts)
        self._calls: ManagerCalls | None = None
        self._timers: list[Periodic] = []
        self._looking: Deferred[None] | None = None

    @property
    def calls(self) -> ManagerCalls:
        """The channel of the moment; only once :meth:`open` has succeeded."""
        assert self._calls is not None, "there is no channel yet"
        return self._calls

    @property
    def secure(self) -> bool:
        """Whether it speaks TLS."""
        return self._identity.enabled

    @property
    def not_after(self) -> float | None:
        """End of the certificate in use, Unix seconds."""
        return self._identity.not_after

    async def open(self) -> None:
        """Makes the channel, or looks whether its certificates are still the newest.

        Raises:
            ManagerConnectError: D2001, the certificates cannot be used.
        """
        if self._calls is None:
            self._calls = self._dial(self._config, await self._identity.load())
        else:
            await self._renew()

    def apply(self, config: ManagerConfig) -> None:
        """Another Manager, or other certificates."""
        self._config = config
        self._identity.forget()
        self._identity = LinkIdentity(config.tls, self._threads, self._wall, self._alerts)
        self.close()

    def close(self) -> None:
        """Calls under way fail at once."""
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.close()

    # ------------------------------------------------------------------- files

    def start(self) -> None:
        """Begins to look after the files."""
        self._timers = [
            periodic(self._clock, FILES_S, self._look, name="manager.tls", phase_s=FILES_S),
            periodic(
                self._clock, CHECK_EVERY_S, lambda: self._identity.tell_expiry(), name="manager.tls expiry",
                phase_s=CHECK_EVERY_S,
            ),
        ]

    async def stop(self) -> None:
        """Ends, without waiting for a disk that hangs."""
        timers, self._timers = self._timers, []
        for timer in timers:
            await timer.stop()
        if self._looking is not None:
            self._looking.cancel()
        self.close()

    def _look(self) -> None:
        if self._looking is None:
            self._looking = look = Deferred.fromCoroutine(self._renew())
            look.addBoth(self._looked)

    def _looked(self, result: Failure | None) -> None:
        self._looking = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            self.log.failure("the certificates of the Manager link", failure=result)

    async def _renew(self) -> None:
        """A channel with renewed certificates takes over; calls under way end on the old one."""
        identity, calls = self._identity, self._calls
        if calls is None or not identity.enabled:
            return
        try:
            found = await identity.renewed()
        except ManagerConnectError as error:
            if identity is self._identity:
                self._notes.failed("tls", error.code, error.message)
            return
        if identity is not self._identity:
            return
        if identity.problem:
            self._notes.failed(
                "tls", ErrorCode.MANAGER_CONNECT, f"{identity.problem}; the certificate before stays in use"
            )
        else:
            self._notes.well("tls")
        if found is not None and self._calls is calls:
            self._calls = self._dial(self._config, found)
            calls.retire()
