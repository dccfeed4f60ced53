"""TLS of the HTTP listener; imported only where it is configured, for pyOpenSSL costs 12 MB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.error import VerifyError

from daemon.config.schema import HttpTlsConfig
from daemon.errors import ListenError

_NO_PEM = (SSL.Error, crypto.Error, VerifyError, ValueError, IndexError)


def tls_endpoint(reactor: Any, host: str, port: int, tls: HttpTlsConfig) -> SSL4ServerEndpoint:
    """An endpoint with the configured certificate; clients may show one of ``client_ca_file``.

    Raises:
        ListenError: a file is missing, unreadable or no PEM.
    """
    return SSL4ServerEndpoint(reactor, port, _options(tls), interface=host)


def _options(tls: HttpTlsConfig) -> ssl.CertificateOptions:
    key_pem, chain_pem = _read(tls.key_file), _read(tls.cert_file)
    if b"ENCRYPTED PRIVATE KEY" in key_pem or b"4,ENCRYPTED" in key_pem:
        # OpenSSL would ask at the terminal, and the start would wait for that.
        raise ListenError(
            f"http_tls: {tls.key_file} has a passphrase and nobody to ask for it; remove it (openssl pkey) "
            "and keep the file 0600"
        )
    try:
        pair = ssl.PrivateCertificate.loadPEM(chain_pem + b"\n" + key_pem)
        chain = [c.original for c in _certificates(chain_pem)[1:]]
    except _NO_PEM as error:
        raise ListenError(
            f"http_tls: {tls.cert_file} and {tls.key_file} are not a PEM certificate and its key: {error}"
        ) from error
    trust: Any = None
    if tls.client_ca_file:
        try:
            trust = ssl.trustRootFromCertificates(_certificates(_read(tls.client_ca_file)))
        except _NO_PEM as error:
            raise ListenError(f"http_tls: {tls.client_ca_file} holds no PEM certificates: {error}") from error
    options = ssl.CertificateOptions(
        privateKey=pair.privateKey.original,
        certificate=pair.original,
        extraCertChain=chain,
        raiseMinimumTo=ssl.TLSVersion.TLSv1_2,
        **({} if trust is None else {"trustRoot": trust}),
    )
    # A client without a certificate may read, and change things with the token.
    options.requireCertificate = False
    return options


def _certificates(pem: bytes) -> list[ssl.Certificate]:
    marker = b"-----BEGIN CERTIFICATE-----"
    found = [ssl.Certificate.loadPEM(marker + part) for part in pem.split(marker)[1:]]
    if not found:
        raise ValueError("no certificate inside")
    return found


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ListenError(
            f"http_tls: {path} cannot be read: {error.strerror}; correct it or its rights"
        ) from error
