"""The certificates of the Manager link: loaded off the reactor, renewed while the link is up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from twisted.logger import Logger

from daemon.aio.shielded import shielded
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.alerts.expiry import tell_expiry
from daemon.config.schema import ManagerTlsConfig
from daemon.errors import ManagerConnectError
from daemon.interfaces import AlertSink, WallClock

if TYPE_CHECKING:
    from daemon.rpc.tls import IdentityFiles, PemSet

T = TypeVar("T")

LANE = "manager-tls"
DEADLINE_S = 10.0
SECTION = "manager.tls"
EXPIRY_ALERT = "manager_certificate_expiry"


class LinkIdentity:
    """The files of ``manager.tls``.

    Args:
        tls: the section.
        threads: where files are read.
        wall: for certificates, whose ends are wall time.
        alerts: hears of certificates that end.

    Attributes:
        not_after: end of the certificate in use, Unix seconds; None without one.
        problem: why renewed files are not used; empty when they are.
    """

    log = Logger()

    def __init__(
        self, tls: ManagerTlsConfig, threads: Threads, wall: WallClock, alerts: AlertSink
    ) -> None:
        self.not_after: float | None = None
        self.problem = ""
        self._digest = ""  # of what is in use
        self._tls = tls
        self._threads = threads
        self._wall = wall
        self._alerts = alerts
        self._files: IdentityFiles | None = None

    @property
    def enabled(self) -> bool:
        """Whether the link speaks TLS."""
        return self._tls.enabled

    def forget(self) -> None:
        """Its files are no longer used: when they end concerns nobody."""
        self._alerts.clear(EXPIRY_ALERT, message="another certificate, or none, is used now")

    async def load(self) -> PemSet | None:
        """Reads the files; None where the link speaks no TLS.

        Raises:
            ManagerConnectError: D2001, they cannot be used.
        """
        if not self.enabled:
            self._alerts.clear(EXPIRY_ALERT, message="the Manager link speaks no TLS any more")
            return None
        if self._files is None:
            from daemon.rpc.tls import IdentityFiles

            tls = self._tls
            self._files = IdentityFiles(
                tls.cert_file, tls.key_file, tls.ca_file, section=SECTION, wall=self._wall
            )
        found = await self._on_lane(self._files.load)
        self._took(found)
        return found

    async def renewed(self) -> PemSet | None:
        """What the files hold now, where that is new and can be used.

        Raises:
            ManagerConnectError: their disk does not answer.
        """
        if self._files is None:
            return None
        found = await self._on_lane(self._files.refresh)
        self.problem = self._files.problem
        if found is None:
            return None
        same = found.digest == self._digest
        self._took(found)
        if same:  # after a half-written or missing file; the channel stays
            self.log.info("the certificate files of the Manager link can be used again; none is new")
            return None
        self.log.info("the certificate of the Manager link was renewed")
        return found

    def tell_expiry(self) -> None:
        """Raises or clears the alert about the certificate's end."""
        if self.not_after is not None:
            tell_expiry(self._alerts, self.not_after, self._wall(), where=SECTION, type=EXPIRY_ALERT)

    def _took(self, found: PemSet) -> None:
        self.not_after = found.not_after
        self._digest = found.digest
        self.problem = ""
        for warning in found.warnings:
            self.log.warn("D2001 {warning}", warning=warning, error_code="D2001")
        self.tell_expiry()

    async def _on_lane(self, work: Callable[[], T]) -> T:
        try:
            return await shielded(self._threads.run(LANE, DEADLINE_S, work))
        except (LaneBusy, LaneTimeout) as error:
            raise ManagerConnectError(
                f"{SECTION}: the files cannot be read ({error}); check the disk they are on"
            ) from error
