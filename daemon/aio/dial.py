"""Connecting to ``host:port`` without the reactor's thread pool.

Twisted's own endpoints resolve names on that pool, and a name server that does not answer would hold the
stop of the process. Here each host has a lane: a dead name server holds those who ask for that name.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from daemon.aio.reactor import Clock
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads


class UnresolvedError(Exception):
    """A name has no address, or nobody answered; the text says which."""


@implementer(IStreamClientEndpoint)
class Dial:
    """An endpoint that resolves its name on a lane and tries address after address.

    Args:
        reactor: connects.
        threads: resolves.
        host: a name or an address.
        port: TCP.
        timeout_s: of the resolution, and of each attempt.
    """

    def __init__(self, reactor: Clock, threads: Threads, host: str, port: int, timeout_s: float) -> None:
        self._reactor = cast(Any, reactor)
        self._threads = threads
        self._host = host
        self._port = port
        self._timeout_s = timeout_s

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See IStreamClientEndpoint; fails with UnresolvedError or what the last attempt failed with."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        last: Exception = UnresolvedError(f"{self._host} has no address")
        for address in await self._addresses():
            endpoint = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
            try:
                return await endpoint(self._reactor, address, self._port, timeout=self._timeout_s).connect(
                    factory
                )
            except (CancelledError, ConnectingCancelledError) as error:
                raise CancelledError from error  # nobody waits for the next address
            except Exception as error:  # noqa: BLE001 - the next address may do; the last error is raised
                last = error
        raise last

    async def _addresses(self) -> Sequence[str]:
        try:
            return (str(ipaddress.ip_address(self._host)),)
        except ValueError:
            pass  # a name
        try:
            found = await self._threads.run(
                f"dns:{self._host}", self._timeout_s, socket.getaddrinfo, self._host, self._port,
                type=socket.SOCK_STREAM,
            )
        except socket.gaierror as error:
            raise UnresolvedError(f"the name {self._host} does not resolve: {error.strerror}") from error
        except (LaneTimeout, LaneBusy) as error:
            raise UnresolvedError(f"the name {self._host} is not answered for: {error}") from error
        except UnicodeError as error:
            raise UnresolvedError(f"{self._host!r} is no name of a host") from error
        return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


async def try_to_connect(endpoint: Dial) -> None:
    """Connects and hangs up: whether somebody listens.

    Raises:
        Exception: what the endpoint failed with.
    """
    protocol = await endpoint.connect(cast(Any, Factory.forProtocol(Protocol)))
    cast(Any, protocol).transport.abortConnection()
