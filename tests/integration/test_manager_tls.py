"""Mutual TLS of the Manager: who gets in, and for whom each may speak."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from daemon.config.schema import GrpcTlsConfig
from daemon.manager.config import GrpcConfig
from tests.fakes.rpc_certs import Cert
from tests.integration.manager_support import ManagerCase, code_of
from tests.integration.rpc_support import Pki


class TlsTest(ManagerCase):
    def setUp(self) -> None:
        super().setUp()
        self.pki = Pki(self.folder)
        self.one, self.two = Cert("host-1", self.pki.ca), Cert("host-2", self.pki.ca)

    def mutual(self, **more: Any) -> None:
        tls = GrpcTlsConfig(cert_file=self.pki.cert_file, key_file=self.pki.key_file, ca_file=str(self.pki.ca_file))
        self.configure(grpc=GrpcConfig(tls=tls, **more))

    async def test_a_node_speaks_only_for_itself(self) -> None:
        self.mutual()
        await self.serve()
        one, two = (self.client(self.pki.credentials(each)) for each in (self.one, self.two))
        await self.call(one.register)
        for work in (two.register, two.beat, lambda: two.report(1)):
            code, details = await self.call(code_of, work)
            self.assertEqual(code, "PERMISSION_DENIED")
            self.assertIn("another certificate", details)
        self.assertTrue((await self.call(one.beat)).success)
        self.assertEqual((await self.get("/v1/nodes/n1"))["certificate"], "host-1")
        self.assertEqual((await self.post("/v1/nodes/n1/release"))[0], 200)
        self.assertTrue((await self.call(two.register)).success)

    async def test_only_the_authoritys_clients_get_in(self) -> None:
        self.mutual()
        await self.serve()
        foreign = Cert("host-1", Cert("other authority", ca=True))
        for credentials in (
            self.pki.credentials(bare=True), self.pki.credentials(foreign),
            self.pki.credentials(Cert("host-1", self.pki.ca, days=-1)),
        ):
            self.assertEqual((await self.call(code_of, self.client(credentials).register))[0], "UNAVAILABLE")
        self.assertEqual((await self.call(code_of, self.client().register))[0], "UNAVAILABLE")

    async def test_only_the_listed_get_in(self) -> None:
        self.mutual(allowed_clients=("HOST-2",))
        await self.serve()
        code, details = await self.call(code_of, self.client(self.pki.credentials(self.one)).register)
        self.assertEqual(code, "PERMISSION_DENIED")
        self.assertIn("'host-1' is not in manager.grpc.allowed_clients", details)
        self.assertTrue((await self.call(self.client(self.pki.credentials(self.two)).register)).success)

    async def test_tls_1_2_is_refused(self) -> None:
        self.mutual()
        await self.serve()

        def shake() -> None:
            context = ssl.create_default_context(cafile=str(self.pki.ca_file))
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with (
                socket.create_connection(("127.0.0.1", self.config.grpc_port), timeout=5) as plain,
                context.wrap_socket(plain, server_hostname="localhost"),
            ):
                raise AssertionError("TLS 1.2 was taken")

        with self.assertRaises((ssl.SSLError, ConnectionError)):
            await self.call(shake)

    async def test_a_renewed_certificate_is_used_without_a_restart(self) -> None:
        self.mutual()
        manager = await self.serve()
        client = self.client(self.pki.credentials(self.one))
        await self.call(client.register)
        before = manager.rpc.certificate_not_after
        self.pki.renew(days=200)
        self.assertTrue((await self.call(self.client(self.pki.credentials(self.one)).beat)).success)
        await self.until(lambda: manager.rpc.certificate_not_after != before, "the new certificate")
        self.assertTrue((await self.call(client.beat)).success)
