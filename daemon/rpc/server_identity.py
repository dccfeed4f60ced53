"""The certificate of a gRPC server: loaded off the reactor, renewed at handshakes, watched until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock
from daemon.aio.shielded import shielded
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.alerts.expiry import CHECK_EVERY_S, tell_expiry
from daemon.config.schema import GrpcTlsConfig
from daemon.errors import ListenError
from daemon.interfaces import AlertSink, WallClock
from daemon.rpc.bridge import Bridge

if TYPE_CHECKING:
    from daemon.rpc.tls import IdentityFiles, PemSet, Stamp

FILES_ALERT = "certificate_files"
LANE = "grpc-tls"
DEADLINE_S = 10.0


class ServerIdentity:
    """The files of a section ``grpc.tls``.

    Args:
        tls: the section.
        section: its name, for messages.
        clock: the daily look.
        bridge: from gRPC's threads.
        threads: where files are read.
        alerts: hears of files that cannot be used and of certificates that end.
        wall: for certificates, whose ends are wall time.
        begun: called in a thread of gRPC's at every handshake.

    Attributes:
        not_after: end of the certificate in use, Unix seconds; None before :meth:`credentials`.
    """

    log = Logger()

    def __init__(
        self, tls: GrpcTlsConfig, section: str, *, clock: Clock, bridge: Bridge, threads: Threads,
        alerts: AlertSink, wall: WallClock, begun: Callable[[], None],
    ) -> None:
        self.not_after: float | None = None
        self._tls = tls
        self._section = section
        self._clock = clock
        self._bridge = bridge
        self._threads = threads
        self._alerts = alerts
        self._wall = wall
        self._begun = begun
        self._files: IdentityFiles | None = None
        self._problem = ""
        self._daily: Periodic | None = None
        self._looking: Deferred[None] | None = None

    async def stamp(self) -> Stamp:
        """Another one when the files may have changed; empty while their disk does not answer."""
        try:
            return await shielded(self._threads.run(LANE, DEADLINE_S, self._known_files().stamp))
        except (LaneBusy, LaneTimeout):
            return ()

    async def credentials(self) -> Any:
        """What the files hold, for a server that begins to listen.

        Raises:
            ListenError: D1003, they cannot be used.
        """
        from daemon.rpc.tls import server_credentials

        files = self._known_files()
        try:
            first = await shielded(self._threads.run(LANE, DEADLINE_S, files.load))
        except (LaneBusy, LaneTimeout) as error:
            raise ListenError(
                f"{self._section}: the files cannot be read ({error}); check the disk they are on"
            ) from error
        found = server_credentials(files, first, self._renewed, self._begun)
        self._in_use(first.not_after, first.names, first.warnings, "in use")
        if self._daily is None:
            self._daily = periodic(
                self._clock, CHECK_EVERY_S, self._look, name="certificate expiry", phase_s=CHECK_EVERY_S
            )
        return found

    def _known_files(self) -> IdentityFiles:
        if self._files is None:
            from daemon.rpc.tls import IdentityFiles

            tls = self._tls
            self._files = IdentityFiles(
                tls.cert_file, tls.key_file, tls.ca_file, section=self._section, fault=ListenError,
                wall=self._wall,
            )
        return self._files

    def _renewed(self, pem: PemSet | None) -> None:
        """In a thread of gRPC's; the PEM itself stays there."""
        if pem is None:
            self._bridge.post(self._not_usable)
        else:
            self._bridge.post(self._in_use, pem.not_after, pem.names, pem.warnings, "renewed")

    def _in_use(
        self, not_after: float | None, names: tuple[str, ...], warnings: tuple[str, ...], how: str
    ) -> None:
        self.not_after = not_after
        self._problem = ""
        self._alerts.clear(FILES_ALERT, message="the new files are in use")
        for warning in warnings:
            self.log.warn("D1003 {warning}", warning=warning, error_code="D1003")
        self._tell_expiry()
        self.log.info(
            "gRPC: the certificate of {names} is {how}, valid until {until}",
            names=", ".join(names) or "nobody", how=how,
            until=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(not_after or 0)),
        )

    def _not_usable(self) -> None:
        self._complain(self._files.problem if self._files is not None else "")

    def _complain(self, problem: str) -> None:
        if not problem or problem == self._problem:
            return  # told already, or good by now
        self._problem = problem
        self.log.warn(
            "D1003 {problem}; the certificate before stays in use", problem=problem, error_code="D1003"
        )
        self._alerts.raise_alert(FILES_ALERT, f"{problem}; the certificate before stays in use")

    def _tell_expiry(self) -> None:
        if self.not_after is not None:
            tell_expiry(self._alerts, self.not_after, self._wall(), where=self._section)

    async def look_again(self) -> None:
        """A Manager keeps one connection for months: for want of a handshake renewed files would look old."""
        if self._files is not None:
            try:
                pem = await shielded(self._threads.run(LANE, DEADLINE_S, self._files.peek))
            except ListenError as error:
                self._complain(error.message)
            except (LaneBusy, LaneTimeout) as error:
                self._complain(f"{self._section}: the files cannot be read ({error}); check their disk")
            else:
                if pem is not None:
                    self.not_after = pem.not_after
                    self._problem = ""
                    self._alerts.clear(FILES_ALERT, message="the next connection uses the new files")
        self._tell_expiry()

    def _look(self) -> None:
        if self._looking is None:
            self._looking = look = Deferred.fromCoroutine(self.look_again())
            look.addBoth(self._looked)

    def _looked(self, result: Failure | None) -> None:
        self._looking = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            self.log.failure("the certificates of the gRPC server", failure=result)

    async def stop(self) -> None:
        """Looks no more; does not wait for a disk that hangs."""
        daily, self._daily = self._daily, None
        if daily is not None:
            await daily.stop()
        if self._looking is not None:
            self._looking.cancel()
