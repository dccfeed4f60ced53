"""Listening on TCP, or TLS where a certificate is configured."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError

from daemon.errors import ListenError
from daemon.web.certificate import HttpCertificate


async def listen_tcp(
    reactor: Any, host: str, port: int, certificate: HttpCertificate, site: Any, *, key: str
) -> Any:
    """Serves a site; the port that listens.

    Args:
        reactor: listens.
        host, port: where.
        certificate: for TLS, where one is configured.
        site: the protocol's factory.
        key: of the configuration, that names the port.

    Raises:
        ListenError: D1003; the port is taken, or the certificate cannot be used.
    """
    endpoint: Any
    if certificate.configured:
        await certificate.load()
        endpoint = SSL4ServerEndpoint(reactor, port, certificate, interface=host)
    elif ":" in host:
        endpoint = TCP6ServerEndpoint(reactor, port, interface=host)
    else:
        endpoint = TCP4ServerEndpoint(reactor, port, interface=host)
    try:
        return await endpoint.listen(site)
    except CannotListenError as error:
        raise ListenError(
            f"{host}:{port} cannot be listened to: {cause_of(error)}; free the port (ss -ltnp shows who has"
            f" it) or change {key}"
        ) from error


def cause_of(error: Exception) -> str:
    """The system's words for why there is no port."""
    cause = getattr(error, "socketError", error)
    return getattr(cause, "strerror", None) or str(cause)
