"""HTTPS with certificates made here: who is let in, by what, and what a wrong file says."""

from __future__ import annotations

import ssl
import time
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from daemon.aio.sleep import sleep
from daemon.config.schema import HttpTlsConfig
from daemon.errors import ErrorCode, ListenError
from daemon.web.service import HttpService
from tests.fakes.control import TOKEN
from tests.integration.web_support import Authority, ServiceCase, free_port, short_key

CHANGE = "/v1/agents/web/start"  # it runs already: succeeds at once


class TlsCase(ServiceCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = Authority("test root")
        self.middle = Authority("test middle", self.root)
        self.server = Authority("server", self.middle, server=True, ca=False)
        self.clients = Authority("test clients")
        self.cert_file, self.key_file = self.server.write(self.folder, "server", self.middle)
        self.client_ca_file = self.file("clients.pem", self.clients.pem)

    def file(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    async def serve(self, *, client_ca: bool = True) -> HttpService:
        service = self.make(port=free_port(), tls=self.config(client_ca_file=self.client_ca_file if client_ca else ""))
        await service.open()
        return service

    def config(self, **changes: str) -> HttpTlsConfig:
        said = {"cert_file": self.cert_file, "key_file": self.key_file, "client_ca_file": ""}
        return HttpTlsConfig(**(said | changes))

    def context(self, client: Authority | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.root.pem.decode())
        if client is not None:
            context.load_cert_chain(*client.write(self.folder, "client"))
        return context

    async def refused(self, context: ssl.SSLContext) -> str:
        """The handshake fails; what the client is told."""
        try:
            reply = await self.ask("GET", "/livez", context=context)
        except (ssl.SSLError, ConnectionError) as error:
            return str(error)
        raise AssertionError(f"it was served: {reply.status}")


class TlsTest(TlsCase):
    async def test_https_answers_with_the_chain_of_its_certificate(self) -> None:
        service = await self.serve()
        reply = await self.ask("GET", "/readyz", context=self.context())
        self.assertEqual((reply.status, reply.json), (200, {"status": "ok"}))
        self.assertEqual((service.tcp_error, service.tcp_port), ("", self.port))

    async def test_a_change_without_certificate_needs_the_token(self) -> None:
        await self.serve()
        reply = await self.ask("POST", CHANGE, context=self.context())
        self.assertEqual((reply.status, reply.type), (401, "application/problem+json"))
        reply = await self.ask("POST", CHANGE, context=self.context(), token="x" * 64)
        self.assertEqual(reply.status, 401)
        reply = await self.ask("POST", CHANGE, context=self.context(), token=TOKEN)
        self.assertEqual((reply.status, reply.json["id"]), (200, "web"))

    async def test_a_change_with_a_client_certificate_passes_without_token(self) -> None:
        await self.serve()
        client = Authority("operator", self.clients, ca=False)
        reply = await self.ask("POST", CHANGE, context=self.context(client))
        self.assertEqual((reply.status, reply.json["id"]), (200, "web"))

    async def test_a_client_of_a_foreign_authority_is_refused_even_with_the_token(self) -> None:
        await self.serve()
        foreign = Authority("stranger", Authority("foreign"), ca=False)
        self.assertTrue(await self.refused(self.context(foreign)))
        posing = Authority("operator", Authority("test clients"), ca=False)  # the right name, another key
        self.assertTrue(await self.refused(self.context(posing)))
        self.assertTrue(await self.refused(self.context(Authority("lone", ca=False))))
        self.assertEqual((await self.ask("GET", "/livez", context=self.context())).status, 200)

    async def test_an_expired_client_certificate_is_refused(self) -> None:
        await self.serve()
        self.assertTrue(await self.refused(self.context(Authority("old", self.clients, ca=False, expired=True))))

    async def test_a_server_certificate_is_no_client_certificate(self) -> None:
        await self.serve()
        server = Authority("server", self.clients, server=True, ca=False)
        self.assertTrue(await self.refused(self.context(server)))

    async def test_without_a_client_authority_no_certificate_opens_anything(self) -> None:
        await self.serve(client_ca=False)
        client = Authority("operator", self.clients, ca=False)
        reply = await self.ask("POST", CHANGE, context=self.context(client))
        self.assertEqual(reply.status, 401)

    async def test_tls_1_2_is_the_floor(self) -> None:
        await self.serve()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = self.context()
            context.minimum_version = context.maximum_version = version
            self.assertEqual((await self.ask("GET", "/livez", context=context)).status, 200)
        old = self.context()
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        self.assertIn("PROTOCOL_VERSION", (await self.refused(old)).upper())

    async def test_plain_http_on_the_tls_port_is_not_served(self) -> None:
        await self.serve()
        try:
            reply = await self.ask("GET", "/livez")
        except (OSError, HTTPException):
            return
        self.fail(f"it was served: {reply.status}")

    async def test_files_that_are_missing_or_wrong_are_d1003_with_their_name(self) -> None:
        other = Authority("other", self.root, server=True, ca=False)
        garbage = self.file("garbage.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        short = short_key()
        wrong: list[tuple[dict[str, str], str]] = [
            ({"cert_file": str(self.folder / "none.pem")}, "none.pem cannot be read: No such file"),
            ({"key_file": str(self.folder / "none.key")}, "none.key cannot be read: No such file"),
            ({"client_ca_file": str(self.folder / "none.ca")}, "none.ca cannot be read: No such file"),
            ({"cert_file": self.file("empty.pem", b"")}, "empty.pem"),
            ({"cert_file": self.file("text.pem", b"no PEM here")}, "text.pem"),
            ({"cert_file": garbage}, "garbage.pem"),
            ({"key_file": self.file("bad.key", b"\xff\x00")}, "bad.key"),
            ({"key_file": self.file("other.key", other.key_pem())}, "other.key"),
            ({"key_file": self.file("locked.key", other.key_pem(b"secret"))}, "locked.key has a passphrase"),
            ({"client_ca_file": self.file("empty.ca", b"")}, "empty.ca holds no PEM certificates"),
            ({"client_ca_file": garbage}, "garbage.pem holds no PEM certificates"),
            ({"cert_file": str(self.folder)}, "cannot be read: Is a directory"),
            ({"cert_file": self.file("short.pem", short), "key_file": str(self.folder / "short.pem")}, "key too small"),
        ]
        for changes, words in wrong:
            service = self.make(port=free_port(), tls=self.config(**changes))
            error = await self.assertFailure(Deferred.fromCoroutine(service.open()), ListenError)
            self.assertIs(error.code, ErrorCode.LISTEN)
            self.assertIn(words, error.message)
            self.assertIn(words, service.tcp_error)
            self.assertEqual(service.control_error, "")
            self.assertTrue(Path(self.control_path).is_socket())
            await service.stopService()


class RenewalTest(TlsCase):
    """Files are replaced while it serves, as renewal tools do."""

    async def served_until(self, context: ssl.SSLContext, ok: bool = True) -> None:
        """Connections are made until one is served, or until one is refused: the first one only sets the look off."""
        for _try in range(100):
            try:
                await self.ask("GET", "/livez", context=context)
            except (ssl.SSLError, ConnectionError):
                served = False
            else:
                served = True
            if served is ok:
                return
            await sleep(reactor, 0.1)  # type: ignore[arg-type]
        raise AssertionError(f"after 10 s: served is {not ok}")

    async def alert(self, type: str, *, stands: bool = True) -> str:
        """Waits until it stands, or does no more; what it says."""
        for _try in range(100):
            if (("", type) in self.alerts.standing) is stands:
                return str(self.alerts.standing.get(("", type), ""))
            await self.ask("GET", "/livez", context=self.context())
            await sleep(reactor, 0.1)  # type: ignore[arg-type]
        raise AssertionError(f"{type}: {self.alerts.standing}")

    async def test_a_renewed_certificate_serves_new_connections_and_old_ones_stay(self) -> None:
        await self.serve()
        old = HTTPSConnection("localhost", self.port, context=self.context(), timeout=20)
        self.addCleanup(old.close)
        self.assertEqual(await deferToThread(_status, old), 200)
        self.root = Authority("another root")
        Authority("server", self.root, server=True, ca=False).write(self.folder, "server")
        await self.served_until(self.context())
        self.assertEqual(await deferToThread(_status, old), 200)
        self.assertNotIn(("", "http_certificate_files"), self.alerts.standing)

    async def test_another_client_authority_counts_from_then_on(self) -> None:
        await self.serve()
        clients = Authority("new clients")
        context = self.context(Authority("operator", clients, ca=False))
        self.assertTrue(await self.refused(context))
        self.file("clients.pem", clients.pem)
        await self.served_until(context)
        await self.served_until(self.context(Authority("operator", self.clients, ca=False)), ok=False)

    async def test_half_a_renewal_leaves_the_one_before_and_stands_as_an_alert(self) -> None:
        await self.serve()
        good = Path(self.cert_file).read_bytes()
        for wrong in (b"", good[:300], Authority("other", self.root, server=True, ca=False).pem):
            Path(self.cert_file).write_bytes(wrong)
            self.assertIn("the certificate before stays in use", await self.alert("http_certificate_files"))
            Path(self.cert_file).write_bytes(good)
            await self.alert("http_certificate_files", stands=False)

    async def test_its_end_is_told_ahead_and_when_it_is_there(self) -> None:
        first = await self.serve()  # its certificate lives one day more
        self.assertIn("daemon.http_tls expires at", await self.alert("http_certificate_expiry"))
        await first.stopService()
        self.wall = lambda: time.time() + 2 * 86400
        late = self.make(port=free_port(), tls=self.config())
        await late.open()
        self.assertIn("expired at", await self.alert("http_certificate_expiry"))


def _status(connection: HTTPSConnection) -> int:
    connection.request("GET", "/livez")
    response = connection.getresponse()
    response.read()
    return response.status
