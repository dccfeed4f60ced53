"""Certificates of gRPC, both directions: reading, checking, and renewal while the daemon runs.

Imported only where TLS is configured.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from daemon.errors import DaemonError, ListenError, ManagerConnectError
from daemon.interfaces import WallClock
from daemon.rpc.x509 import Certificate, fits, read_pem

FILE_MAX_BYTES = 1024 * 1024  # a chain or a bundle of authorities; more is no PEM of this kind
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"
_LOCKED = (b"ENCRYPTED PRIVATE KEY", b"4,ENCRYPTED")

Fault = type[ListenError] | type[ManagerConnectError]
Stamp = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PemSet:
    """A checked identity and the authorities it trusts. Held for as long as gRPC needs to load it, no longer.

    Attributes:
        cert: the chain, the own certificate first; empty for a client without one.
        key: its private key.
        ca: the authorities the other side must have its certificate of; empty: the system's.
        not_after: when the certificate ends (of the authorities where it has none), Unix seconds; None for
            nothing that ends.
        names: the common name and the alternative names in the certificate.
        digest: SHA-256 over all three, to tell one set from another; no secret.
        warnings: what the operator should know although it serves.
    """

    cert: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)
    ca: bytes = field(default=b"", repr=False)
    not_after: float | None = None
    names: tuple[str, ...] = ()
    digest: str = ""
    warnings: tuple[str, ...] = ()


def load_identity(
    cert_file: str, key_file: str, ca_file: str, *, section: str = "manager.tls",
    fault: Fault = ManagerConnectError, wall: WallClock = time.time,
) -> PemSet:
    """Reads and checks the files; blocks for as long as the disk does.

    Args:
        cert_file, key_file: both or, for a client, neither.
        ca_file: the authorities; empty for the system's.
        section: the configuration's section, for messages.
        fault: the error to raise.
        wall: now.

    Raises:
        ListenError, ManagerConnectError: a file is missing, unreadable, no PEM or half-written; the key has a
            passphrase, is another's or of a kind gRPC does not speak; a certificate is not valid now.
    """
    check = _Check(section, fault, wall())
    cert = key = ca = b""
    not_after: float | None = None
    names: tuple[str, ...] = ()
    warnings: list[str] = []
    if bool(cert_file) != bool(key_file):
        missing = "key_file" if cert_file else "cert_file"
        raise check.error(f"{missing} is not written; a certificate and its key come together")
    if ca_file:
        ca = check.read(ca_file)
        not_after = check.authorities(ca_file, ca)
    if cert_file:
        cert, key = check.read(cert_file), check.read(key_file)
        own = check.certificates(cert_file, cert)[0]
        check.valid_now(cert_file, own)
        check.key_of(own, cert_file, cert, key_file, key)
        not_after, names = own.not_after, own.names
        if check.open_to_others(key_file):
            warnings.append(
                f"{section}: every user of this host may read {key_file}; chmod 0600 it and renew the key"
            )
    digest = hashlib.sha256(b"\0".join((cert, key, ca))).hexdigest()
    return PemSet(
        cert=cert, key=key, ca=ca, not_after=not_after, names=names, digest=digest, warnings=tuple(warnings)
    )


class _Check:
    """The single checks; each message names the section, the file, the cause and the next step."""

    def __init__(self, section: str, fault: Fault, now: float) -> None:
        self._section = section
        self._fault = fault
        self._now = now

    def error(self, message: str) -> DaemonError:
        return self._fault(f"{self._section}: {message}")

    def read(self, path: str) -> bytes:
        """A regular file, links followed (renewal tools swap links)."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise self.error(f"{path} is no file; write the path of a PEM file")
                data = b""
                while len(data) <= FILE_MAX_BYTES and (part := os.read(fd, FILE_MAX_BYTES + 1)):
                    data += part
            finally:
                os.close(fd)
        except OSError as error:
            raise self.error(
                f"{path} cannot be read: {error.strerror}; correct the path, or let the daemon's user read it"
            ) from error
        if len(data) > FILE_MAX_BYTES:
            raise self.error(f"{path} is larger than {FILE_MAX_BYTES} bytes; it is no PEM of certificates")
        if not data.strip():
            raise self.error(f"{path} is empty; it may be half-written, write it again")
        return data

    def certificates(self, path: str, pem: bytes) -> list[Certificate]:
        """All certificates of a file; at least one."""
        if pem.count(_BEGIN) != pem.count(_END):
            raise self.error(f"{path} ends within a certificate; it is half-written, write it again")
        if _BEGIN not in pem:
            raise self.error(f"{path} holds no PEM certificate; openssl x509 -in FILE -text shows what it is")
        try:
            return read_pem(pem)
        except ValueError as error:
            raise self.error(
                f"{path} holds a certificate that cannot be read: {error}; write it again"
            ) from error

    def valid_now(self, path: str, certificate: Certificate) -> None:
        if self._now > certificate.not_after:
            raise self.error(f"the certificate in {path} expired at {_day(certificate.not_after)}; renew it")
        if self._now < certificate.not_before:
            raise self.error(
                f"the certificate in {path} is valid only from {_day(certificate.not_before)}; "
                "check this host's clock, or wait"
            )

    def authorities(self, path: str, pem: bytes) -> float:
        """When the last of them ends; one that is over beside a good one is how authorities are renewed."""
        found = self.certificates(path, pem)
        last = max(found, key=lambda each: each.not_after)
        self.valid_now(path, last)
        return last.not_after

    def key_of(self, own: Certificate, cert_file: str, cert: bytes, key_file: str, key: bytes) -> None:
        if any(mark in key for mark in _LOCKED):
            raise self.error(
                f"{key_file} has a passphrase and nobody to ask for it; remove it (openssl pkey) "
                "and keep the file 0600"
            )
        if not own.spoken:
            raise self.error(
                f"the key of {cert_file} is of a kind that gRPC does not speak; make an RSA key of 2048 bits "
                "or more, or an EC key on P-256 or P-384, and have it certified"
            )
        try:
            belongs = fits(cert, key)
        except ValueError as error:
            half = key.count(b"-----BEGIN ") != key.count(b"-----END ")
            cause = "it is half-written" if half else "it is no PEM key"
            raise self.error(f"{key_file} holds no key that can be read: {cause}; write it again") from error
        if not belongs:
            raise self.error(
                f"the key in {key_file} does not belong to the certificate in {cert_file}; "
                "write both of the same issue"
            )

    def open_to_others(self, path: str) -> bool:
        try:
            return bool(Path(path).stat().st_mode & stat.S_IRWXO)
        except OSError:
            return False  # it was there when it was read; who takes it away now says so at the next load


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


class IdentityFiles:
    """Three files that may be renewed at any time. May be asked from any thread.

    Args:
        cert_file, key_file, ca_file, section, fault, wall: see :func:`load_identity`.

    Attributes:
        problem: why the newest files are not used, empty when they are.
    """

    def __init__(
        self, cert_file: str, key_file: str, ca_file: str, *, section: str = "manager.tls",
        fault: Fault = ManagerConnectError, wall: WallClock = time.time,
    ) -> None:
        self.problem = ""
        self._files = (cert_file, key_file, ca_file)
        self._section = section
        self._fault = fault
        self._wall = wall
        self._stamp: Stamp = ()
        self._digest = ""
        self._lock = threading.Lock()

    def load(self) -> PemSet:
        """Reads them whether they changed or not.

        Raises:
            ListenError, ManagerConnectError: see :func:`load_identity`.
        """
        with self._lock:
            return self._load()

    def peek(self) -> PemSet | None:
        """What they hold now where that may have changed since the last good load, else None.

        It is not taken into use: the next :meth:`refresh` still finds it new.

        Raises:
            ListenError, ManagerConnectError: see :func:`load_identity`.
        """
        if self.stamp() == self._stamp:
            return None
        return load_identity(*self._files, section=self._section, fault=self._fault, wall=self._wall)

    def refresh(self) -> PemSet | None:
        """The new identity where there is one.

        None when nothing changed, and when what is there now cannot be used (half-written, expired): the last
        good one stays in use, ``problem`` says why, and every later call tries again. What ends a problem is
        told as a new one, also when it is the old one again.
        """
        with self._lock:
            if self.stamp() == self._stamp:
                return None
            before, was_problem = self._digest, self.problem
            try:
                found = self._load()
            except DaemonError as error:
                self.problem = error.message
                return None
            return found if found.digest != before or was_problem else None

    def _load(self) -> PemSet:
        stamp = self.stamp()  # before reading: a write in between shows as a change the next time
        found = load_identity(*self._files, section=self._section, fault=self._fault, wall=self._wall)
        self._stamp, self._digest, self.problem = stamp, found.digest, ""
        return found

    def stamp(self) -> Stamp:
        """Another one when they may have changed: three stat(2), no reading."""
        return tuple(_stamp_of(path) for path in self._files if path)


def _stamp_of(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)  # noqa: PTH116 - at every handshake; Path costs more than the call
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def server_credentials(
    files: IdentityFiles, first: PemSet, renewed: Callable[[PemSet | None], None],
    begun: Callable[[], None] = lambda: None,
) -> grpc.ServerCredentials:
    """Credentials that look for renewed files at every handshake.

    Clients must show a certificate of the authorities in ``ca_file``, where there is one.

    Args:
        files: asked at each handshake.
        first: what they held at the start.
        renewed: called in a thread of gRPC's with a new set now in use, or with None when the files changed
            and cannot be used (``files.problem``); never raises.
        begun: called likewise at every handshake.
    """
    mutual = bool(first.ca)

    def fetch() -> Any:
        begun()
        found = files.refresh()
        if found is None:
            if files.problem:
                renewed(None)
            return None  # goes on with the last good one
        renewed(found)
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(first), fetch, require_client_authentication=mutual
    )


def _configuration(pem: PemSet) -> Any:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], root_certificates=pem.ca or None)


def client_credentials(pem: PemSet) -> grpc.ChannelCredentials:
    """Credentials of a channel; without a certificate of its own the other side alone is proven."""
    return grpc.ssl_channel_credentials(
        root_certificates=pem.ca or None, private_key=pem.key or None, certificate_chain=pem.cert or None
    )
