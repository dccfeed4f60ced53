"""What the tests of the real HTTP listeners share: certificates, a service, blocking clients."""

from __future__ import annotations

import datetime
import http.client
import json
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from daemon.aio.notify import InotifyNotifier
from daemon.aio.threads import ThreadLanes
from daemon.config.schema import HttpTlsConfig
from daemon.web.certificate import HttpCertificate
from daemon.web.service import HttpService
from tests.fakes.control import TOKEN, Rig
from tests.fakes.lab import Lab
from tests.fakes.supervised import FakeAlerts

TIMEOUT_S = 20
DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate and its key; it may sign others.

    Args:
        name: its common name.
        issuer: who signs it; itself when None.
        server: whether it is for 127.0.0.1 as a server.
        ca: whether it may sign.
        expired: whether its time is over.
    """

    def __init__(
        self, name: str, issuer: Authority | None = None, *, server: bool = False, ca: bool = True,
        expired: bool = False,
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = issuer or self
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 10 * DAY)
            .not_valid_after(now - DAY if expired else now + DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if server:
            names = [x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, password: bytes | None = None) -> bytes:
        """The private key."""
        how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how
        )

    def write(self, folder: Path, name: str, *chain: Authority) -> tuple[str, str]:
        """Certificate (with its chain) and key as files."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.pem + b"".join(each.pem for each in chain))
        key.write_bytes(self.key_pem())
        key.chmod(0o600)
        return str(certificate), str(key)


def short_key() -> bytes:
    """A certificate, with its key, that no TLS of today takes: RSA of 1024 bits."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    now, name = datetime.datetime.now(datetime.UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "short")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - DAY).not_valid_after(now + DAY)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return pem + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Reply:
    """One answer to a blocking client."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.type = response.getheader("content-type") or ""
        self.body = response.read()

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def free_port() -> int:
    """A port nobody listens to at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServiceCase(TestCase):
    """A real HttpService over the laboratory's agents; the folder is open to other users."""

    timeout = TIMEOUT_S * 2

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.lab.spec("web")
        self.lab.boot()
        self.lab.run(2)
        self.rig = Rig(self.lab)
        self.folder = Path(tempfile.mkdtemp(prefix="hd-web-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.folder)
        self.control_path = str(self.folder / "run" / "control.sock")
        self.port = 0
        self.wall: Callable[[], float] = time.time
        self.alerts = FakeAlerts()
        self.threads = ThreadLanes(reactor)  # type: ignore[arg-type]  # as below
        self.addCleanup(lambda: Deferred.fromCoroutine(self.threads.stop(5.0)))
        self.notifier = InotifyNotifier(reactor)  # type: ignore[arg-type]  # as below
        self.addCleanup(self.notifier.stop)

    def make(self, *, tls: HttpTlsConfig | None = None, port: int = 0, **how: Any) -> HttpService:
        """The service, not opened yet; TCP only when a port is given."""
        self.port = port
        said: dict[str, Any] = {"control_path": self.control_path, "control_gid": None, "host": "127.0.0.1"}
        service = HttpService(
            reactor, self.rig.api, self.rig.heartbeats,  # type: ignore[arg-type]  # the global reactor is all of them
            token=TOKEN, port=port, certificate=HttpCertificate(
                tls or HttpTlsConfig(), "daemon.http_tls", clock=reactor, wall=self.wall,  # type: ignore[arg-type]
                threads=self.threads, alerts=self.alerts,
            ),
            our_names=frozenset({"localhost"}), notifier=self.notifier, events=self.rig.bus, **(said | how),
        )
        self.addCleanup(service.stopService)
        return service

    def ask(
        self, method: str, target: str, *, context: ssl.SSLContext | None = None, local: bool = False,
        token: str = "", host: str = "localhost",
    ) -> Deferred[Reply]:
        """One request from a thread: the reactor answers meanwhile."""
        def work() -> Reply:
            connection: http.client.HTTPConnection
            if local:
                connection = _UnixConnection(self.control_path)
            elif context is not None:
                connection = http.client.HTTPSConnection(host, self.port, context=context, timeout=TIMEOUT_S)
            else:
                connection = http.client.HTTPConnection(host, self.port, timeout=TIMEOUT_S)
            try:
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                connection.request(method, target, headers=headers)
                return Reply(connection.getresponse())
            finally:
                connection.close()

        answer: Deferred[Reply] = deferToThread(work)
        return answer
