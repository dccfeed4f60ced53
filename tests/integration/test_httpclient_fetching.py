"""A streaming GET against real sockets: bytes, redirections, proxies, TLS, silence, and servers that misbehave."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from daemon.aio.threads import ThreadLanes
from daemon.httpclient import HttpError
from daemon.httpclient.body import PIECE_BYTES
from daemon.httpclient.fetching import Fetcher, FetchLimits
from daemon.httpclient.sink import Answer
from tests.fakes import package_server as server
from tests.fakes.package_server import Manner, PackageServer, ProxyServer
from tests.integration.web_support import Authority

BODY = bytes(range(256)) * 4096  # 1 MiB
SOON_S = 0.3


class Memory:
    """A sink that keeps everything; it may be slow, picky or broken."""

    def __init__(self, pause: Callable[[], Deferred[Any]] | None = None, wanted: bool = True) -> None:
        self.answer: Answer | None = None
        self.pieces: list[bytes] = []
        self.failing: Exception | None = None
        self.at_work = self.most_at_work = 0
        self._pause = pause
        self._wanted = wanted

    async def begin(self, answer: Answer) -> bool:
        assert self.answer is None, "one answer per fetch"
        self.answer = answer
        return self._wanted

    async def write(self, piece: bytes) -> None:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        if self._pause is not None:
            await self._pause()
        self.at_work -= 1
        if self.failing is not None:
            raise self.failing
        self.pieces.append(piece)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


class Fetching(TestCase):
    """What the tests share."""

    timeout = 60

    def setUp(self) -> None:
        self.reactor: Any = reactor
        self.threads = ThreadLanes(self.reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.threads.stop(1.0)))
        self.environ: dict[str, str] = {}
        self.fetcher = Fetcher(self.reactor, self.threads, self.environ)
        self.checked: list[str] = []

    def serve(self, *manners: Manner, body: bytes = BODY, tls: Any = None) -> tuple[PackageServer, str]:
        """A server and the URL of its package."""
        site = PackageServer(body, *manners)
        return site, f"{'http' if tls is None else 'https'}://{self.listen(site, tls)}/pkg/thing.tar.gz"

    def listen(self, factory: Any, tls: Any = None) -> str:
        if tls is None:
            port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        else:
            port = self.reactor.listenSSL(0, factory, tls, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"localhost:{port.getHost().port}" if tls is not None else f"127.0.0.1:{port.getHost().port}"

    async def fetch(self, url: str, sink: Memory | None = None, *, headers: dict[str, str] | None = None,
                    timeout_s: float = 20.0, stall_s: float = 10.0, check: Callable[[str], str] | None = None) -> Memory:
        sink = Memory() if sink is None else sink

        def noted(asked: str) -> str:
            self.checked.append(asked)
            return asked

        await self.fetcher.fetch(url, sink, headers=headers or {}, check=check or noted,
                                 limits=FetchLimits(timeout_s=timeout_s, stall_s=stall_s, connect_s=timeout_s))
        return sink

    async def refused(self, url: str, sink: Memory | None = None, **more: Any) -> HttpError:
        try:
            got = await self.fetch(url, sink, **more)
        except HttpError as error:
            return error
        raise AssertionError(f"{len(got.body)} bytes came")

    async def gone(self, *sites: PackageServer) -> None:
        """Every connection ends."""
        for _ in range(400):
            if not any(site.open for site in sites):
                return
            await deferLater(self.reactor, 0.005)
        raise AssertionError("connections are left")

    def certificate(self) -> Any:
        """A server's certificate whose root this process trusts."""
        root = Authority("package root")
        leaf = Authority("server", root, server=True, ca=False)
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        for name, pem in (("ca", root.pem), ("cert", leaf.pem), ("key", leaf.key_pem())):
            with open(f"{folder}/{name}.pem", "wb") as file:
                file.write(pem)
        self.ca_file = f"{folder}/ca.pem"
        return DefaultOpenSSLContextFactory(f"{folder}/key.pem", f"{folder}/cert.pem")

    def trust(self) -> None:
        before = os.environ.get("SSL_CERT_FILE")
        os.environ["SSL_CERT_FILE"] = self.ca_file
        self.addCleanup(lambda: os.environ.pop("SSL_CERT_FILE") if before is None
                        else os.environ.__setitem__("SSL_CERT_FILE", before))


class BodyTest(Fetching):
    async def test_every_byte_arrives_in_order_and_the_head_is_told(self) -> None:
        site, url = self.serve()
        sink = await self.fetch(url, headers={"Range": "bytes=10-", "If-Range": '"v1"'})
        self.assertEqual(sink.body, BODY[10:])
        assert sink.answer is not None
        self.assertEqual((sink.answer.status, sink.answer.length), (206, len(BODY) - 10))
        self.assertEqual(sink.answer.headers["content-range"], f"bytes 10-{len(BODY) - 1}/{len(BODY)}")
        asked = site.requests[0]
        self.assertEqual(asked.line, "GET /pkg/thing.tar.gz HTTP/1.1")
        self.assertEqual((asked.range, asked.headers["if-range"]), ("bytes=10-", '"v1"'))
        self.assertEqual(asked.headers["accept-encoding"], "identity")
        self.assertEqual(asked.headers["connection"], "close")
        await self.gone(site)

    async def test_chunks_and_a_body_that_ends_with_the_connection(self) -> None:
        for manner, length in ((server.chunked, None), (server.raw(b"HTTP/1.0 200 OK\r\n\r\n" + BODY), None)):
            site, url = self.serve(manner)
            sink = await self.fetch(url)
            self.assertEqual(sink.body, BODY)
            assert sink.answer is not None
            self.assertEqual(sink.answer.length, length)
            await self.gone(site)

    async def test_an_empty_body_and_one_that_is_not_wanted(self) -> None:
        site, url = self.serve(body=b"")
        self.assertEqual((await self.fetch(url)).body, b"")
        await self.gone(site)
        site, url = self.serve(server.endless_body)
        self.assertEqual((await self.fetch(url, Memory(wanted=False))).body, b"")
        await self.gone(site)

    async def test_nothing_is_read_while_the_sink_is_at_work(self) -> None:
        body = os.urandom(1 << 20) * 8
        waiting: list[Deferred[None]] = []

        def pause() -> Deferred[None]:
            waiting.append(Deferred())
            return waiting[-1]

        sink = Memory(pause)
        site, url = self.serve(body=body)
        work = Deferred.fromCoroutine(self.fetch(url, sink))
        released = 0
        while not work.called:
            await deferLater(self.reactor, 0.001)
            if len(waiting) > released:
                for _ in range(3):  # whatever would still arrive arrives in these turns
                    await deferLater(self.reactor, 0)
                self.assertEqual(len(waiting), released + 1)
                waiting[released].callback(None)
                released += 1
        await work
        self.assertEqual(hashlib.sha256(sink.body).digest(), hashlib.sha256(body).digest())
        self.assertEqual(sink.most_at_work, 1)
        self.assertLessEqual(max(map(len, sink.pieces)), PIECE_BYTES + 2 * 65536)
        self.assertGreaterEqual(len(sink.pieces), len(body) // (PIECE_BYTES + 2 * 65536))

    async def test_what_came_before_a_cut_still_reaches_the_sink(self) -> None:
        for manner in (server.cut(300_000), server.cut(300_000, rudely=True)):
            site, url = self.serve(manner)
            sink = Memory()
            error = await self.refused(url, sink)
            self.assertEqual((str(error), error.final), ("the connection broke after 300000 bytes", False))
            self.assertEqual(sink.body, BODY[:300_000])
            await self.gone(site)

    async def test_a_sink_that_fails_ends_it_with_its_own_error(self) -> None:
        site, url = self.serve(server.endless_body)
        sink = Memory()
        sink.failing = OSError(28, "no space")
        with self.assertRaises(OSError):
            await self.fetch(url, sink)
        await self.gone(site)
        self.assertEqual(sink.pieces, [])

    async def test_an_encoding_that_was_not_asked_for(self) -> None:
        site, url = self.serve(server.altered(content_encoding="gzip"))
        error = await self.refused(url)
        self.assertIn("Content-Encoding gzip", str(error))
        self.assertTrue(error.final)
        site, url = self.serve(server.altered(content_encoding="identity"))
        self.assertEqual((await self.fetch(url)).body, BODY)

    async def test_headers_without_end_and_what_is_not_http(self) -> None:
        for manner, text in (
            (server.endless_headers, "no end of its headers"),
            (server.raw(b"SSH-2.0-OpenSSH\r\n"), "the answer is not HTTP"),
            (server.raw(b""), "closed before an answer"),
            (server.altered(transfer_encoding="gzip"), "Transfer-Encoding"),
        ):
            site, url = self.serve(manner)
            error = await self.refused(url)
            self.assertIn(text, str(error))
            self.assertFalse(error.final)
            await self.gone(site)


class TimeTest(Fetching):
    async def test_silence_before_the_answer_and_within_the_body(self) -> None:
        for manner, had in ((server.mute, 0), (server.stall(1000), 1000)):
            site, url = self.serve(manner)
            sink = Memory()
            error = await self.refused(url, sink, stall_s=SOON_S)
            self.assertEqual((str(error), error.final), (f"no byte for {SOON_S} s", False))
            self.assertEqual(len(sink.body), had)
            await self.gone(site)

    async def test_a_slow_sink_is_not_the_servers_silence(self) -> None:
        site, url = self.serve()
        sink = Memory(lambda: deferLater(self.reactor, 2 * SOON_S))
        self.assertEqual((await self.fetch(url, sink, stall_s=SOON_S)).body, BODY)
        self.assertGreater(len(sink.pieces), 1)

    async def test_a_drip_never_stalls_and_ends_at_the_deadline(self) -> None:
        site, url = self.serve(server.drip(0.02))
        error = await self.refused(url, timeout_s=4 * SOON_S, stall_s=SOON_S)
        self.assertEqual(str(error), f"not done within {4 * SOON_S:g} s")
        await self.gone(site)

    async def test_a_caller_that_leaves_ends_it_at_every_stage(self) -> None:
        for manner, sink in (
            (server.mute, Memory()),
            (server.stall(300_000), Memory()),
            (server.endless_body, Memory(lambda: Deferred())),
        ):
            site, url = self.serve(manner)
            work = Deferred.fromCoroutine(self.fetch(url, sink))
            await deferLater(self.reactor, 0.1)
            self.assertFalse(work.called)
            work.cancel()
            with self.assertRaises(CancelledError):
                await work
            had = len(sink.pieces)
            await self.gone(site)
            self.assertEqual(len(sink.pieces), had)

    async def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        error = await self.refused(f"http://127.0.0.1:{port}/")
        self.assertEqual((str(error), error.final), ("connection refused", False))


class RedirectTest(Fetching):
    async def test_followed_with_the_same_headers_and_every_url_is_checked(self) -> None:
        for code in (301, 302, 303, 307, 308):
            self.checked.clear()
            site, url = self.serve(server.redirect("../other/x?y=z#frag", code), server.well)
            sink = await self.fetch(url, headers={"Range": "bytes=5-"})
            self.assertEqual(sink.body, BODY[5:])
            self.assertEqual([request.line.split()[1] for request in site.requests], ["/pkg/thing.tar.gz", "/other/x?y=z"])
            self.assertEqual(site.ranges, ["bytes=5-", "bytes=5-"])
            self.assertEqual(len(self.checked), 2)

    async def test_five_are_followed_and_a_loop_is_not(self) -> None:
        site, url = self.serve(*[server.redirect("/{n}")] * 5, server.well)
        self.assertEqual((await self.fetch(url)).body, BODY)
        site, url = self.serve(server.redirect("/{n}"))
        error = await self.refused(url)
        self.assertEqual((str(error), error.final), ("it redirects more than 5 times", True))
        self.assertEqual(len(site.requests), 6)
        await self.gone(site)

    async def test_what_the_caller_refuses_is_not_asked(self) -> None:
        other, foreign = self.serve()
        for place in (foreign, "file:///etc/passwd", "ftp://x/", "//evil.example/", "http://[::bad"):
            site, url = self.serve(server.redirect(place))

            def check(asked: str, url: str = url) -> str:
                if asked == url:
                    return asked
                raise HttpError(f"refused {asked}", final=True)

            error = await self.refused(url, check=check)
            self.assertTrue(error.final, error)
            self.assertEqual(len(site.requests), 1)
        self.assertEqual(other.requests, [])

    async def test_what_the_caller_makes_of_a_url_is_what_is_asked_for(self) -> None:
        site, url = self.serve()
        await self.fetch(url + "/%7euser", check=lambda asked: asked.replace("%7e", "~"))
        self.assertEqual(site.requests[0].line, "GET /pkg/thing.tar.gz/~user HTTP/1.1")

    async def test_never_from_https_to_http(self) -> None:
        plain, target = self.serve()
        secret, url = self.serve(server.redirect(target), tls=self.certificate())
        self.trust()
        error = await self.refused(url)
        self.assertEqual((str(error), error.final), ("a redirection leads from https to http", True))
        self.assertEqual(plain.requests, [])

    async def test_a_password_stays_with_its_host(self) -> None:
        other, elsewhere = self.serve()
        site, url = self.serve(server.redirect("/here"), server.redirect(elsewhere))
        await self.fetch(url.replace("//", "//us%40er:pa:ss@"))
        self.assertEqual([request.headers.get("authorization") for request in site.requests],
                         ["Basic dXNAZXI6cGE6c3M="] * 2)
        self.assertNotIn("authorization", other.requests[0].headers)
        absolute = "http://" + url.split("/")[2] + "/there"
        site.manners = [server.redirect(absolute), server.well]
        await self.fetch(url.replace("//", "//u:p@"))
        self.assertEqual(site.requests[-1].headers.get("authorization"), "Basic dTpw")

    async def test_a_redirection_without_a_place_is_an_answer(self) -> None:
        site, url = self.serve(server.status(302))
        sink = await self.fetch(url, Memory(wanted=False))
        assert sink.answer is not None
        self.assertEqual(sink.answer.status, 302)


class ProxyTest(Fetching):
    def proxy(self, target: str = "", *manners: Manner, body: bytes = b"") -> ProxyServer:
        """A proxy that the environment names."""
        port = int(target.split("/")[2].rpartition(":")[2]) if target else 0
        proxy = ProxyServer(self.reactor, port, body, *manners)
        where = self.listen(proxy)
        self.environ.update({"http_proxy": f"http://us:p%40ss@{where}", "HTTPS_PROXY": where})
        return proxy

    async def test_plain_http_asks_the_proxy_for_the_whole_url(self) -> None:
        proxy = self.proxy("", server.well, body=BODY)
        sink = await self.fetch("http://me:pw@packages.example/thing?a=b")
        self.assertEqual(sink.body, BODY)
        asked = proxy.requests[0]
        self.assertEqual(asked.line, "GET http://packages.example/thing?a=b HTTP/1.1")
        self.assertEqual(asked.headers["host"], "packages.example")
        self.assertEqual(asked.headers["proxy-authorization"], "Basic dXM6cEBzcw==")
        self.assertEqual(asked.headers["authorization"], "Basic bWU6cHc=")
        await self.gone(proxy)

    async def test_https_goes_through_a_tunnel_and_the_proxy_learns_the_host_alone(self) -> None:
        site, url = self.serve(tls=self.certificate())
        self.trust()
        proxy = self.proxy(url)
        self.environ["HTTPS_PROXY"] = "u:p@" + self.environ["HTTPS_PROXY"]
        sink = await self.fetch(url, headers={"Range": "bytes=7-"})
        self.assertEqual(sink.body, BODY[7:])
        self.assertEqual(proxy.requests[0].line, f"CONNECT {url.split('/')[2]} HTTP/1.1")
        self.assertEqual(proxy.requests[0].headers["proxy-authorization"], "Basic dTpw")
        self.assertNotIn("proxy-authorization", site.requests[0].headers)
        self.assertEqual(site.requests[0].line, "GET /pkg/thing.tar.gz HTTP/1.1")
        await self.gone(site, proxy)

    async def test_the_certificate_is_the_hosts_not_the_proxys(self) -> None:
        site, url = self.serve(tls=self.certificate())
        self.trust()
        proxy = self.proxy(url)
        error = await self.refused(url.replace("localhost", "packages.example"))
        self.assertEqual((str(error), error.final), ("TLS: the certificate is another host's", True))
        self.assertEqual(site.requests, [])
        await self.gone(site, proxy)

    async def test_a_proxy_that_refuses_hangs_floods_or_leaves(self) -> None:
        name = "https://packages.example/x"
        for manner, text, final in (
            (server.status(407), "wants a user and a password", True),
            (server.status(403), "answered 403 to CONNECT", True),
            (server.status(502), "answered 502 to CONNECT", False),
            (server.raw(b"SSH-2.0-x\r\n\r\n"), "does not answer in HTTP", False),
            (server.raw(b""), "closed before an answer", False),
            (server.endless_headers, "no end of its headers", False),
            (server.mute, "opened no tunnel within", False),
        ):
            proxy = self.proxy("", manner)
            self.fetcher = Fetcher(self.reactor, self.threads, self.environ)
            with self.subTest(text):
                sink = Memory()
                try:
                    await self.fetcher.fetch(name, sink, headers={}, check=lambda url: url,
                                             limits=FetchLimits(timeout_s=5.0, connect_s=SOON_S))
                    raise AssertionError("it came")
                except HttpError as error:
                    self.assertIn(text, str(error))
                    self.assertEqual(error.final, final)
                    self.assertNotIn("p%40ss", str(error))
                await self.gone(proxy)

    async def test_a_caller_that_leaves_while_the_proxy_thinks(self) -> None:
        proxy = self.proxy("", server.mute)
        work = Deferred.fromCoroutine(self.fetch("https://packages.example/x"))
        while not proxy.requests:
            await deferLater(self.reactor, 0.005)
        work.cancel()
        with self.assertRaises(CancelledError):
            await work
        await self.gone(proxy)

    async def test_hosts_that_are_excepted_are_asked_directly(self) -> None:
        site, url = self.serve()
        proxy = self.proxy("")
        self.environ["no_proxy"] = "127.0.0.0/8"
        self.assertEqual((await self.fetch(url)).body, BODY)
        self.assertEqual(proxy.requests, [])


class TrustTest(Fetching):
    async def test_the_hosts_bundle_decides(self) -> None:
        site, url = self.serve(tls=self.certificate())
        error = await self.refused(url)
        self.assertEqual((str(error), error.final), ("TLS: certificate verify failed", True))
        self.assertEqual(site.requests, [])
        self.trust()
        self.assertEqual((await self.fetch(url)).body, BODY)
        await self.gone(site)

    async def test_a_name_that_does_not_resolve(self) -> None:
        error = await self.refused("http://no-such-host.invalid/")
        self.assertIn("no-such-host.invalid does not resolve", str(error))
        self.assertFalse(error.final)
