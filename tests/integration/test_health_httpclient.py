"""Our HTTP towards others, against real sockets: whatever the other side does, an answer or a reason in time."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import deferLater
from twisted.internet.tcp import Client
from twisted.trial.unittest import TestCase

from daemon.aio.dial import Dial, try_to_connect
from daemon.aio.threads import ThreadLanes
from daemon.config.schema import AgentConfig, AgentType, HealthCheckConfig
from daemon.health.probing import ProbeCommand, Probes
from daemon.httpclient import HttpClient, HttpError
from tests.fakes.commands import FakeCommandRunner
from tests.integration.web_support import Authority

T = TypeVar("T")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SOON_S = 0.3


class Peer(Protocol):
    """One connection of a server in the test."""

    factory: PeerFactory

    def connectionMade(self) -> None:
        self.factory.open += 1

    def dataReceived(self, data: bytes) -> None:
        self.factory.received += data
        if b"\r\n\r\n" in self.factory.received:
            self.factory.answer(self)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.open -= 1


class PeerFactory(Factory):
    """Keeps what was received, answers as told."""

    protocol = Peer
    noisy = False

    def __init__(self, answer: Callable[[Peer], object]) -> None:
        self.answer = answer
        self.received = b""
        self.open = 0


class HttpClientTest(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.reactor: Any = reactor
        self.threads = ThreadLanes(self.reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.threads.stop(1.0)))
        self.http = HttpClient(self.reactor, self.threads)

    # ------------------------------------------------------------------ tools

    def serve(self, answer: bytes | Callable[[Peer], object], host: str = "127.0.0.1", tls: Any = None) -> int:
        """A server; its port."""
        call = (lambda peer: peer.transport.write(answer)) if isinstance(answer, bytes) else answer
        self.peers = PeerFactory(call)
        if tls is None:
            port = self.reactor.listenTCP(0, self.peers, interface=host)
        else:
            port = self.reactor.listenSSL(0, self.peers, tls, interface=host)
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def get(self, port: int, *, host: str = "127.0.0.1", path: str = "/", timeout_s: float = 5.0,
                  scheme: str = "http") -> int:
        return await self.http.status(f"{scheme}://{host}:{port}{path}", timeout_s)

    async def refused(self, work: Coroutine[Any, Any, object]) -> str:
        """Why it failed."""
        try:
            result = await work
        except HttpError as error:
            return str(error)
        raise AssertionError(f"it answered {result}")

    async def gone(self) -> None:
        """Every connection of the server ends."""
        for _ in range(200):
            if not self.peers.open:
                return
            await deferLater(self.reactor, 0.005)
        raise AssertionError(f"{self.peers.open} connections are left")

    def full_port(self) -> int:
        """A port whose connections are never made: its backlog is full."""
        listener = socket.socket()
        self.addCleanup(listener.close)
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = socket.socket()
            self.addCleanup(filler.close)
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        port: int = listener.getsockname()[1]
        return port

    # ----------------------------------------------------------------- answers

    async def test_what_is_asked_and_how(self) -> None:
        port = self.serve(OK)
        self.assertEqual(await self.get(port, path="/metrics?a=b%20c#there"), 200)
        head = self.peers.received.decode()
        self.assertTrue(head.startswith("GET /metrics?a=b%20c HTTP/1.1\r\n"), head)
        self.assertIn(f"Host: 127.0.0.1:{port}\r\n", head)
        self.assertRegex(head, r"User-Agent: hostdaemon/\d")
        self.assertIn("Connection: close\r\n", head)
        self.assertNotIn("Authorization", head)
        await self.gone()

    async def test_when_it_is_over_its_connection_is_gone(self) -> None:
        for answer in (OK, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx"):
            port = self.serve(answer)
            await self.get(port)
            open_ones = [each for each in (*self.reactor.getReaders(), *self.reactor.getWriters()) if isinstance(each, Client)]
            self.assertEqual(open_ones, [])
            await self.gone()

    async def test_every_status_is_an_answer_and_a_redirection_is_not_followed(self) -> None:
        for status in (204, 302, 404, 500):
            port = self.serve(b"HTTP/1.1 %d X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n" % status)
            self.assertEqual(await self.get(port), status)
            await self.gone()

    async def test_user_and_password_of_a_url_are_sent_as_such_and_shown_nowhere(self) -> None:
        port = self.serve(OK)
        await self.get(port, host="us%40er:pa:ss@127.0.0.1")
        self.assertIn(b"Authorization: Basic dXNAZXI6cGE6c3M=\r\n", self.peers.received)
        self.assertIn(b"Host: 127.0.0.1:", self.peers.received)
        text = await self.refused(self.http.status("http://us:hunter2@no-such-host.invalid/", 5.0))
        self.assertIn("no-such-host.invalid does not resolve", text)
        self.assertNotIn("hunter2", text)

    async def test_text_that_is_not_ascii(self) -> None:
        port = self.serve(OK)
        self.assertEqual(await self.get(port, path="/größe?ä=ö"), 200)
        self.assertIn(b"GET /gr%C3%B6%C3%9Fe?%C3%A4=%C3%B6 HTTP", self.peers.received)
        self.assertIn("xn--", await self.refused(self.http.status("http://größe.example/", 5.0)))

    async def test_ipv6_and_a_name_with_an_address_where_nobody_listens(self) -> None:
        try:
            port = self.serve(OK, "::1")
        except OSError:
            self.skipTest("no IPv6 here")
        self.assertEqual(await self.get(port, host="[::1]"), 200)
        port = self.serve(OK)
        self.patch(socket, "getaddrinfo", lambda *_a, **_k: [
            (socket.AF_INET6, 1, 6, "", ("::1", port, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", port))])
        self.assertEqual(await self.get(port, host="two.example"), 200)

    async def test_a_body_is_not_read_however_slow_or_large(self) -> None:
        port = self.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx")
        self.assertEqual(await self.get(port), 200)
        await self.gone()

        def pour(peer: Peer) -> None:
            transport: Any = peer.transport
            transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
            transport.registerProducer(_Endless(transport), True)

        port = self.serve(pour)
        self.assertEqual(await self.get(port), 200)
        await self.gone()

    async def test_headers_of_60_kib_pass_and_endless_ones_do_not(self) -> None:
        line = b"X-A: " + b"b" * 995 + b"\r\n"

        def in_two_parts(peer: Peer) -> None:
            transport: Any = peer.transport
            transport.write(b"HTTP/1.1 200 OK\r\n" + line * 50)
            self.reactor.callLater(0.05, transport.write, line * 10 + b"\r\n" + b"z" * 200_000)

        port = self.serve(in_two_parts)
        self.assertEqual(await self.get(port), 200)
        for endless in (b"HTTP/1.1 200 OK\r\n" + line * 300, b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000):
            port = self.serve(endless)
            self.assertEqual(await self.refused(self.get(port)), "no end of its headers within 65536 bytes")
            await self.gone()

    # ---------------------------------------------------------------- failures

    async def test_refused(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        self.assertEqual(await self.refused(self.get(port)), "connection refused")

    async def test_a_server_that_accepts_and_hangs_or_drips(self) -> None:
        port = self.serve(lambda _peer: None)
        self.assertEqual(await self.refused(self.get(port, timeout_s=SOON_S)), f"no answer within {SOON_S} s")
        await self.gone()
        port = self.serve(b"HTTP/1.1 200 OK\r\nX-")
        self.assertEqual(await self.refused(self.get(port, timeout_s=SOON_S)), f"no answer within {SOON_S} s")
        await self.gone()

    async def test_a_host_that_does_not_answer_at_all_by_address_and_by_name(self) -> None:
        port = self.full_port()
        for host in ("127.0.0.1", "localhost"):
            text = await self.refused(self.get(port, host=host, timeout_s=SOON_S))
            self.assertEqual(text, f"no connection within {SOON_S} s")

    async def test_what_is_not_http(self) -> None:
        for garbage in (b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", b"HTTP/1.1 xx OK\r\n\r\n"):
            port = self.serve(garbage)
            self.assertIn("the answer is not HTTP", await self.refused(self.get(port)))
            await self.gone()
        port = self.serve(b"\0\xff" * 100_000)
        self.assertIn(await self.refused(self.get(port)), (
            "the connection was closed before an answer came", "no end of its headers within 65536 bytes"))
        await self.gone()

    async def test_a_connection_closed_or_reset_before_the_answer(self) -> None:
        for end in ("loseConnection", "abortConnection"):
            port = self.serve(lambda peer, end=end: getattr(peer.transport, end)())
            text = await self.refused(self.get(port))
            self.assertEqual(text, "the connection was closed before an answer came")

    async def test_a_name_server_that_hangs_is_overdue_holds_nobody_else_and_not_the_stop(self) -> None:
        release = threading.Event()
        self.addCleanup(release.set)
        real = socket.getaddrinfo
        self.patch(socket, "getaddrinfo", lambda host, *a, **k: (
            release.wait(10) and [] if host == "dead.example" else real(host, *a, **k)))
        port = self.serve(OK)
        hung = Deferred.fromCoroutine(self.refused(self.get(port, host="dead.example", timeout_s=SOON_S)))
        self.assertEqual(await self.get(port, host="localhost"), 200)
        self.assertIn("the name dead.example is not answered for", await hung)
        begun = self.reactor.seconds()
        self.assertIn("has not come back", await self.refused(self.get(port, host="dead.example")))
        self.assertLess(self.reactor.seconds() - begun, 1.0)
        self.assertEqual(await self.threads.stop(0.1), ("dns:dead.example",))

    async def test_a_caller_that_leaves_ends_it_at_every_stage(self) -> None:
        hangs, full = self.serve(lambda _peer: None), self.full_port()
        for port in (hangs, full):
            work = Deferred.fromCoroutine(self.get(port, timeout_s=60.0))
            await deferLater(self.reactor, 0.05)
            work.cancel()
            with self.assertRaises(CancelledError):
                await work
        await self.gone()

    # ------------------------------------------------------------------- posts

    async def test_a_post_and_the_pause_it_is_told_to_make(self) -> None:
        port = self.serve(b"HTTP/1.1 503 X\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n")
        answer = await self.http.post(f"http://127.0.0.1:{port}/hook", b'{"a":1}', "application/json", 5.0)
        self.assertEqual((answer.status, answer.retry_after_s), (503, 17.0))
        self.assertTrue(self.peers.received.startswith(b"POST /hook HTTP/1.1\r\n"))
        self.assertIn(b"Content-Type: application/json\r\n", self.peers.received)
        self.assertIn(b"Content-Length: 7\r\n", self.peers.received)
        self.assertTrue(self.peers.received.endswith(b'\r\n\r\n{"a":1}'))
        for text in (b"soon", b"-1", b"Wed, 21 Oct 2026 07:28:00 GMT", "²".encode(), b"9" * 400):
            port = self.serve(b"HTTP/1.1 429 X\r\nRetry-After: " + text + b"\r\nContent-Length: 0\r\n\r\n")
            answer = await self.http.post(f"http://127.0.0.1:{port}/", b"", "text/plain", 5.0)
            self.assertIsNone(answer.retry_after_s)

    async def test_an_answer_before_the_body_was_read_counts_and_ends_the_connection(self) -> None:
        def early(peer: Peer) -> None:
            transport: Any = peer.transport
            transport.pauseProducing()
            transport.write(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")

        port = self.serve(early)
        answer = await self.http.post(f"http://127.0.0.1:{port}/", b"x" * 20_000_000, "text/plain", 5.0)
        self.assertEqual(answer.status, 413)

    # --------------------------------------------------------------------- TLS

    def tls_server(self, answer: bytes | Callable[[Peer], object]) -> int:
        root = Authority("probe root")
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        server = Authority("server", root, server=True, ca=False)
        for name, pem in (("ca", root.pem), ("cert", server.pem), ("key", server.key_pem())):
            with open(f"{folder}/{name}.pem", "wb") as file:
                file.write(pem)
        self.ca_file = os.path.abspath(f"{folder}/ca.pem")
        context = DefaultOpenSSLContextFactory(f"{folder}/key.pem", f"{folder}/cert.pem")
        return self.serve(answer, tls=context)

    def trust(self) -> None:
        """This process trusts the root as a host's administrator would have it."""
        before = os.environ.get("SSL_CERT_FILE")
        os.environ["SSL_CERT_FILE"] = self.ca_file
        self.addCleanup(lambda: os.environ.pop("SSL_CERT_FILE") if before is None
                        else os.environ.__setitem__("SSL_CERT_FILE", before))

    async def test_https_with_a_certificate_that_is_trusted(self) -> None:
        port = self.tls_server(OK)
        self.trust()
        self.assertEqual(await self.get(port, host="localhost", scheme="https"), 200)
        await self.gone()

    async def test_https_with_an_unknown_issuer_or_another_name(self) -> None:
        port = self.tls_server(OK)
        text = await self.refused(self.get(port, host="localhost", scheme="https"))
        self.assertEqual(text, "TLS: certificate verify failed")
        self.trust()
        text = await self.refused(self.get(port, scheme="https"))
        self.assertEqual(text, "TLS: the certificate is another host's")
        self.assertEqual(self.peers.received, b"")

    async def test_https_to_a_server_that_does_not_speak_it_or_says_nothing(self) -> None:
        port = self.serve(b"HTTP/1.1 400 X\r\n\r\n")
        self.peers.answer = lambda peer: peer.transport.write(b"HTTP/1.1 400 X\r\n\r\n")  # type: ignore[union-attr]
        text = await self.refused(self.get(port, scheme="https", timeout_s=SOON_S))
        self.assertEqual(text, f"no answer within {SOON_S} s")
        await self.gone()

    async def test_a_tls_server_that_never_says_goodbye_leaves_no_connection(self) -> None:
        def deaf(peer: Peer) -> None:
            transport: Any = peer.transport
            transport.write(OK)
            transport.pauseProducing()

        port = self.tls_server(deaf)
        self.trust()
        self.assertEqual(await self.get(port, host="localhost", scheme="https"), 200)

    def test_https_in_a_process_that_was_started_without_openssl_says_so(self) -> None:
        program = (
            "import sys; sys.modules['OpenSSL'] = None\n"
            "from twisted.internet import reactor\n"
            "from twisted.internet.defer import Deferred\n"
            "from daemon.httpclient import HttpClient\n"
            "d = Deferred.fromCoroutine(HttpClient(reactor, None).status('https://127.0.0.1:1/', 5.0))\n"
            "d.addErrback(lambda f: print(f.type.__name__, f.getErrorMessage()))\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
        self.assertIn("HttpError OpenSSL is not loaded", done.stdout, done.stderr)
        self.assertIn("restart", done.stdout)

    # ----------------------------------------------------- probes over all that

    def probes(self) -> Probes:
        return Probes(
            http=self.http,
            connect=lambda host, port, timeout_s: try_to_connect(
                Dial(self.reactor, self.threads, host, port, timeout_s)),
            commands=FakeCommandRunner(self.reactor),
            command_of=lambda spec: ProbeCommand(argv=spec.health_check.command, env={}),
        )

    async def probe(self, kind: str, **check: Any) -> str:
        spec = AgentConfig(id="a", type=AgentType.CUSTOM, binary_path="/x",
                           health_check=HealthCheckConfig(http_timeout=SOON_S, **check))
        return await self.probes().run(kind, spec, self.reactor)

    async def test_a_tcp_probe_of_a_port_that_is_open_closed_or_silent(self) -> None:
        port = self.serve(OK)
        self.assertEqual(await self.probe("tcp", tcp=f"127.0.0.1:{port}"), "")
        self.assertEqual(await self.probe("tcp", tcp=f"localhost:{port}"), "")
        await self.gone()
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        self.assertEqual(await self.probe("tcp", tcp=f"127.0.0.1:{port}"), f"tcp 127.0.0.1:{port}: connection refused")
        port = self.full_port()
        self.assertEqual(await self.probe("tcp", tcp=f"127.0.0.1:{port}"),
                         f"tcp 127.0.0.1:{port}: no connection within {SOON_S} s")

    async def test_an_http_probe_says_what_it_asked_and_what_came(self) -> None:
        port = self.serve(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
        url = f"http://127.0.0.1:{port}/metrics"
        self.assertEqual(await self.probe("http", http_endpoint=url), f"GET {url}: answered 500")
        port = self.serve(b"HTTP/1.1 302 X\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(await self.probe("http", http_endpoint=f"http://127.0.0.1:{port}/"), "")


class _Endless:
    """Writes for as long as it is let."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def resumeProducing(self) -> None:
        self._transport.write(b"x" * 65536)

    def pauseProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass
