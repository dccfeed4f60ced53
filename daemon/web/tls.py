"""The files of ``http_tls`` as OpenSSL takes them; imported only where configured, pyOpenSSL costs 12 MB."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet.error import VerifyError

from daemon.config.schema import HttpTlsConfig
from daemon.errors import ListenError

_NO_PEM = (SSL.Error, crypto.Error, VerifyError, ValueError, IndexError)

Stamp = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Files that can be used.

    Attributes:
        options: with them.
        not_after: the end of the certificate, Unix seconds.
        stamp: which files they were, see :func:`stamp_of`.
    """

    options: ssl.CertificateOptions
    not_after: float
    stamp: Stamp


def load(tls: HttpTlsConfig, section: str) -> Loaded:
    """Reads and checks the files. Blocks for as long as the disk does.

    Args:
        tls: which; clients may show a certificate of its ``client_ca_file``.
        section: of the configuration, for messages.

    Raises:
        ListenError: a file is missing, unreadable, no PEM or not of the other one.
    """
    stamp = stamp_of(tls)  # before they are read: what is replaced meanwhile is another one then
    key_pem, chain_pem = _read(tls.key_file, section), _read(tls.cert_file, section)
    if b"ENCRYPTED PRIVATE KEY" in key_pem or b"4,ENCRYPTED" in key_pem:
        # OpenSSL would ask at the terminal, and the start would wait for that.
        raise ListenError(
            f"{section}: {tls.key_file} has a passphrase and nobody to ask for it; remove it (openssl pkey) "
            "and keep the file 0600"
        )
    try:
        pair = ssl.PrivateCertificate.loadPEM(chain_pem + b"\n" + key_pem)
        chain = [c.original for c in _certificates(chain_pem)[1:]]
    except _NO_PEM as error:
        raise ListenError(
            f"{section}: {tls.cert_file} and {tls.key_file} are not a PEM certificate and its key "
            f"({_words(error)}); write both files anew"
        ) from error
    trust: Any = None
    if tls.client_ca_file:
        try:
            trust = ssl.trustRootFromCertificates(_certificates(_read(tls.client_ca_file, section)))
        except _NO_PEM as error:
            raise ListenError(
                f"{section}: {tls.client_ca_file} holds no PEM certificates ({_words(error)}); write it anew"
            ) from error
    options = ssl.CertificateOptions(
        privateKey=pair.privateKey.original,
        certificate=pair.original,
        extraCertChain=chain,
        raiseMinimumTo=ssl.TLSVersion.TLSv1_2,
        **({} if trust is None else {"trustRoot": trust}),
    )
    # A client without a certificate may read, and change things with the token.
    options.requireCertificate = False
    try:
        options.getContext()  # a short key is found here, not by the first client
    except _NO_PEM as error:
        raise ListenError(
            f"{section}: OpenSSL does not take {tls.cert_file} ({_words(error)}); renew it with its key"
        ) from error
    return Loaded(options=options, not_after=_end_of(pair.original), stamp=stamp)


def renewed(tls: HttpTlsConfig, section: str, known: Stamp) -> Loaded | None:
    """The files once more, when they are others than those of ``known``; None when they are the same. Blocks.

    Raises:
        ListenError: they are others, and cannot be used.
    """
    return None if stamp_of(tls) == known else load(tls, section)


def stamp_of(tls: HttpTlsConfig) -> Stamp:
    """Another one when a file may have changed; links are followed. Blocks."""
    return tuple(_stamp(path) for path in (tls.cert_file, tls.key_file, tls.client_ca_file))


def _stamp(path: str) -> tuple[int, ...]:
    try:
        seen = Path(path).stat() if path else None
    except OSError:
        return ()  # loading says what is wrong with it
    return (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns) if seen else ()


def _end_of(certificate: crypto.X509) -> float:
    said = (certificate.get_notAfter() or b"").decode("ascii")  # ASN.1 GeneralizedTime, always UTC here
    return datetime.strptime(said, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _words(error: Exception) -> str:
    """OpenSSL says what is wrong as a list of (library, function, reason)."""
    said = error.args[0] if error.args else ""
    reasons = [entry[-1] for entry in said if isinstance(entry, tuple)] if isinstance(said, list) else []
    return "; ".join(reasons) or str(error) or type(error).__name__


def _certificates(pem: bytes) -> list[ssl.Certificate]:
    marker = b"-----BEGIN CERTIFICATE-----"
    found = [ssl.Certificate.loadPEM(marker + part) for part in pem.split(marker)[1:]]
    if not found:
        raise ValueError("no certificate inside")
    return found


def _read(path: str, section: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ListenError(
            f"{section}: {path} cannot be read: {error.strerror}; correct it or its rights"
        ) from error
