"""The certificate of an HTTP listener: renewed files are found by the connections that come, its end is told.

Whoever renews certificates replaces files and expects nothing else to be done. Nothing is polled: a new
connection asks, at most once in ``LOOK_AFTER_S``, whether the files are others now, on a thread, and is
served with what is in use meanwhile. Once a day they are looked at anyway, so that the alert about the end
comes on a quiet host too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock
from daemon.aio.shielded import shielded
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.alerts.expiry import CHECK_EVERY_S, tell_expiry
from daemon.config.schema import HttpTlsConfig
from daemon.errors import ListenError
from daemon.interfaces import AlertSink, WallClock

if TYPE_CHECKING:
    from daemon.web.tls import Loaded

FILES_ALERT = "http_certificate_files"
EXPIRY_ALERT = "http_certificate_expiry"
LANE = "http-tls"
DEADLINE_S = 10.0
LOOK_AFTER_S = 1.0


@implementer(IOpenSSLContextFactory)
class HttpCertificate:
    """The files of one section ``http_tls``, and what of them is in use.

    Args:
        tls: the section.
        section: its name, for messages.
        clock: monotonic.
        wall: for the end of the certificate, which is wall time.
        threads: where files are read.
        alerts: hears of files that cannot be used and of a certificate that ends.
    """

    log = Logger()

    def __init__(
        self, tls: HttpTlsConfig, section: str, *, clock: Clock, wall: WallClock, threads: Threads,
        alerts: AlertSink,
    ) -> None:
        self._tls = tls
        self._section = section
        self._clock = clock
        self._wall = wall
        self._threads = threads
        self._alerts = alerts
        self._loaded: Loaded | None = None
        self._looked_s = 0.0
        self._problem = ""
        self._looking: Deferred[None] | None = None
        self._daily: Periodic | None = None

    @property
    def configured(self) -> bool:
        """Whether there is one at all; without, HTTP is plain."""
        return bool(self._tls.cert_file)

    @property
    def not_after(self) -> float | None:
        """The end of the certificate in use, Unix seconds; None where none is."""
        return self._loaded.not_after if self._loaded is not None else None

    async def load(self) -> None:
        """Reads and takes the files, for a listener that begins.

        Raises:
            ListenError: D1003, they cannot be used.
        """
        from daemon.web.tls import load  # pyOpenSSL only where it is configured: 12 MB

        try:
            loaded = await shielded(
                self._threads.run(LANE, DEADLINE_S, load, self._tls, self._section)
            )
        except (LaneBusy, LaneTimeout) as error:
            raise ListenError(
                f"{self._section}: the files cannot be read ({error}); check the disk they are on"
            ) from error
        self._take(loaded)
        if self._daily is None:
            self._daily = periodic(
                self._clock, CHECK_EVERY_S, self._look, name=f"certificate of {self._section}",
                phase_s=CHECK_EVERY_S,
            )

    def getContext(self) -> Any:
        """See IOpenSSLContextFactory: Twisted asks at each connection."""
        loaded = self._loaded
        if loaded is None:
            raise ListenError(f"{self._section}: asked before it was loaded; a fault of the daemon")
        if self._daily is not None and self._clock.seconds() - self._looked_s >= LOOK_AFTER_S:
            self._look()
        return loaded.options.getContext()

    def _take(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._looked_s = self._clock.seconds()
        self._problem = ""
        self._alerts.clear(FILES_ALERT, message="the new files are in use")
        self._tell_expiry()

    def _tell_expiry(self) -> None:
        if self._loaded is not None:
            tell_expiry(
                self._alerts, self._loaded.not_after, self._wall(), where=self._section, type=EXPIRY_ALERT
            )

    def _look(self) -> None:
        if self._looking is None:
            self._looked_s = self._clock.seconds()
            self._looking = look = Deferred.fromCoroutine(self._look_again())
            look.addBoth(self._looked)

    async def _look_again(self) -> None:
        from daemon.web.tls import renewed

        known = self._loaded.stamp if self._loaded is not None else ()
        try:
            loaded = await shielded(
                self._threads.run(LANE, DEADLINE_S, renewed, self._tls, self._section, known)
            )
        except ListenError as error:
            self._complain(error.message)
        except (LaneBusy, LaneTimeout) as error:
            self._complain(f"{self._section}: the files cannot be read ({error}); check their disk")
        else:
            if loaded is not None:
                self._take(loaded)
                self.log.info("HTTP: renewed files of {section} are in use", section=self._section)
            elif self._problem:  # what was in use is back
                self._problem = ""
                self._alerts.clear(FILES_ALERT, message="the files in use are back")
        self._tell_expiry()

    def _looked(self, result: Failure | None) -> None:
        self._looking = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            self.log.failure("the certificate of {section}", failure=result, section=self._section)

    def _complain(self, problem: str) -> None:
        if problem == self._problem:
            return
        self._problem = problem
        told = f"{problem}; the certificate before stays in use"
        self.log.warn("D1003 {told}", told=told, error_code="D1003")
        self._alerts.raise_alert(FILES_ALERT, told)

    async def stop(self) -> None:
        """Looks no more; does not wait for a disk that hangs."""
        daily, self._daily = self._daily, None
        if daily is not None:
            await daily.stop()
        if self._looking is not None:
            self._looking.cancel()
