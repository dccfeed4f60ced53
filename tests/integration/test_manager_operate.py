"""Operations forwarded to a real DaemonService: with mutual TLS, and everything that can go wrong on the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from daemon.config.schema import GrpcTlsConfig
from daemon.errors import AgentStopError, RequestError, RequestFault
from daemon.manager.config import DaemonTlsConfig, GrpcConfig
from daemon.rpc.pb import daemon_pb2 as d
from daemon.rpc.pb.daemon_pb2_grpc import DaemonServiceServicer, add_DaemonServiceServicer_to_server
from daemon.rpc.status import grpc_status, refusal_of
from tests.fakes.rpc_certs import Cert
from tests.integration.manager_support import ManagerCase
from tests.integration.rpc_support import Pki, free_port

STOP = "/v1/nodes/n1/agents/web/stop"


class Daemon(DaemonServiceServicer):  # type: ignore[misc]  # generated, without types
    """A daemon as the Manager meets it.

    Attributes:
        node_id: who it says it is; None: it does not tell.
        outcome: of OperateAgent: an answer, or an error; None: it does not offer that.
    """

    def __init__(self) -> None:
        self.node_id: str | None = "n1"
        self.outcome: Any = d.AgentOperationResponse(success=True)
        self.asked: list[tuple[str, str]] = []
        self.peers: list[list[bytes]] = []

    def Register(self, request: Any, context: Any) -> Any:
        if self.node_id is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no")
        return d.RegisterResponse(node_id=self.node_id, success=True)

    def OperateAgent(self, request: Any, context: Any) -> Any:
        self.asked.append((request.agent_id, request.operation))
        self.peers.append(list(context.auth_context().get("x509_common_name", [])))
        if self.outcome is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no")
        if isinstance(self.outcome, Exception):
            context.abort_with_status(grpc_status(refusal_of(self.outcome)))  # type: ignore[arg-type]
        return self.outcome


class OperateTest(ManagerCase):
    def setUp(self) -> None:
        super().setUp()
        self.pki = Pki(self.folder)
        self.daemon = Daemon()
        self.port = free_port()

    def start_daemon(self, credentials: grpc.ServerCredentials | None = None) -> None:
        server = grpc.server(ThreadPoolExecutor(4))
        add_DaemonServiceServicer_to_server(self.daemon, server)
        address = f"127.0.0.1:{self.port}"
        if credentials is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, credentials)
        server.start()
        self.addCleanup(lambda: server.stop(0).wait(2))

    async def registered(self) -> None:
        await self.serve()
        await self.call(self.client().register, labels={"grpc_port": str(self.port)})

    async def test_it_comes_about_and_is_kept(self) -> None:
        self.start_daemon()
        await self.registered()
        status, command = await self.post(STOP)
        self.assertEqual((status, command["state"], self.daemon.asked), (200, "done", [("web", "stop")]))
        self.assertEqual((await self.get("/v1/nodes/n1/commands"))["commands"], [command])

    async def test_what_the_daemon_says_is_passed_on(self) -> None:
        self.start_daemon()
        await self.registered()
        for outcome, expected, code, words in (
            (RequestError(RequestFault.UNKNOWN, "no agent 'web'"), 404, None, "no agent 'web'"),
            (RequestError(RequestFault.SUPERSEDED, "superseded"), 409, None, "superseded"),
            (RequestError(RequestFault.BUSY, "busy"), 503, None, "busy"),
            (AgentStopError("web does not end"), 500, "D3002", "web does not end"),
            (d.AgentOperationResponse(success=False, error_message="odd"), 500, None, "odd"),
        ):
            self.daemon.outcome = outcome
            status, problem = await self.post(STOP)
            self.assertEqual((status, problem["code"], problem["detail"]), (expected, code, words))
        self.daemon.outcome = d.AgentOperationResponse(success=True, error_message="in progress")
        self.assertEqual((await self.post(STOP))[0], 202)

    async def test_an_address_that_became_another_nodes_is_left_alone(self) -> None:
        self.daemon.node_id = "n2"
        self.start_daemon()
        await self.registered()
        status, problem = await self.post(STOP)
        self.assertEqual((status, self.daemon.asked), (409, []))
        self.assertIn("is node 'n2' now", problem["detail"])
        self.daemon.node_id = None  # one that does not tell
        self.assertEqual((await self.post(STOP))[0], 200)

    def told(self, found: tuple[int, Any], *words: str) -> None:
        """A 502 in words of ours, with the D-code, and none of gRPC's."""
        status, problem = found
        self.assertEqual((status, problem["code"]), (502, "D2001"), problem)
        for each in (f"no daemon answers at 127.0.0.1:{self.port}: ", *words):
            self.assertIn(each, problem["detail"])
        for foreign in ("ipv4:", "SSL_ERROR", "last error", "UNAVAILABLE"):
            self.assertNotIn(foreign, problem["detail"])

    async def test_nobody_there_is_502(self) -> None:
        await self.registered()
        found = await self.post(STOP)
        self.told(found, "nobody listens there; start the daemon", "label grpc_port", "nothing was done")
        (command,) = (await self.get("/v1/nodes/n1/commands"))["commands"]
        self.assertEqual((command["state"], command["code"]), ("failed", "D2001"))

    async def test_a_daemon_that_wants_tls_is_told_apart(self) -> None:
        self.start_daemon(self.server_credentials(self.pki.server))
        await self.registered()
        self.told(await self.post(STOP), "it wants TLS: write manager.grpc.tls")

    async def test_a_daemon_that_does_not_let_us_in_and_one_without_operations(self) -> None:
        self.start_daemon()
        await self.registered()
        self.daemon.outcome = RequestError(RequestFault.FORBIDDEN, "'node-1' is not in the list")
        status, problem = await self.post(STOP)
        self.assertEqual(status, 502)
        self.assertIn("daemon.grpc.allowed_clients on that host; it said: 'node-1' is not", problem["detail"])
        self.daemon.outcome = None
        status, problem = await self.post(STOP)
        self.assertEqual(status, 502)
        self.assertIn("takes no operations, so nothing was done", problem["detail"])

    def server_credentials(self, server: Cert) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(
            [(server.key_pem(), server.pem)], self.pki.ca.pem, require_client_auth=True
        )

    async def mutual(
        self, server: Cert, name: str = "", *, credentials: grpc.ServerCredentials | None = None,
        running: bool = False,
    ) -> tuple[int, Any]:
        """The operation, with both sides proven; ``name`` is looked for in the daemon's certificate."""
        tls = GrpcTlsConfig(cert_file=self.pki.cert_file, key_file=self.pki.key_file, ca_file=str(self.pki.ca_file))
        self.configure(grpc=GrpcConfig(tls=tls), daemon_tls=DaemonTlsConfig(server_name=name))
        if not running:
            self.start_daemon(credentials or self.server_credentials(server))
        await self.serve()
        client = self.client(self.pki.credentials(Cert("host-1", self.pki.ca)))
        await self.call(client.register, labels={"grpc_port": str(self.port)})
        found: tuple[int, Any] = await self.post(STOP)
        return found

    async def test_both_sides_prove_who_they_are(self) -> None:
        status, command = await self.mutual(self.pki.server)
        self.assertEqual((status, command["success"], self.daemon.peers), (200, True, [[b"node-1"]]))
        self.pki.renew()
        self.assertEqual((await self.post(STOP))[0], 200)

    async def test_the_name_may_be_the_hosts(self) -> None:
        status, _ = await self.mutual(Cert("x", self.pki.ca, dns=("localhost",)), "{hostname}")
        self.assertEqual(status, 200)

    async def test_another_name_is_refused(self) -> None:
        found = await self.mutual(Cert("x", self.pki.ca, dns=("elsewhere.example.org",)))
        self.told(found, "does not name 127.0.0.1; write manager.daemon_tls.server_name", "nothing was done")
        self.assertEqual(self.daemon.asked, [])

    async def test_another_authority_is_refused(self) -> None:
        other = Cert("other", ca=True)
        found = await self.mutual(Cert("x", other, dns=("127.0.0.1",)))
        self.told(found, "is not of an authority in manager.grpc.tls.ca_file")
        self.assertEqual(self.daemon.asked, [])

    async def test_a_daemon_that_knows_another_authority_is_told_apart(self) -> None:
        other = Cert("other", ca=True)
        credentials = grpc.ssl_server_credentials(
            [(self.pki.server.key_pem(), self.pki.server.pem)], other.pem, require_client_auth=True
        )
        found = await self.mutual(self.pki.server, credentials=credentials)
        self.told(found, "it does not accept the Manager's certificate", "daemon.grpc.tls.ca_file on that host")

    async def test_a_daemon_in_plain_text_is_told_apart(self) -> None:
        self.start_daemon()
        found = await self.mutual(self.pki.server, running=True)
        self.told(found, "speaks no TLS there; write daemon.grpc.tls on that host")

    async def test_files_that_went_away_are_d2001(self) -> None:
        await self.mutual(self.pki.server)
        (self.folder / "server.key").unlink()
        status, problem = await self.post(STOP)
        self.assertEqual((status, problem["code"]), (409, "D2001"))
        self.assertIn("server.key cannot be read", problem["detail"])
