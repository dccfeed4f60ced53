"""``scripts/make-certs``: what it makes is served by, renewed under, and never overwrites unasked."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import grpc

from daemon.config.schema import GrpcConfig, GrpcTlsConfig
from daemon.rpc.tls import load_identity
from tests.integration.rpc_support import RpcCase

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make-certs"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The script's end."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=30, check=False
    )


class MakeCertsTest(RpcCase):
    async def test_what_it_makes_is_taken_by_server_and_client(self) -> None:
        made = run(str(self.folder / "pki"), "--host", "node-1.example.org", "--host", "10.0.0.7", "--client", "ops")
        self.assertEqual((made.returncode, made.stderr), (0, ""))
        pki = self.folder / "pki"
        for name in ("ca", "server", "client"):
            self.assertEqual(stat.S_IMODE((pki / f"{name}.key").stat().st_mode), 0o600)
        ca = str(pki / "ca.pem")
        server = load_identity(str(pki / "server.pem"), str(pki / "server.key"), ca)
        self.assertEqual(server.names, ("node-1.example.org", "10.0.0.7", "localhost", "127.0.0.1", "::1"))
        self.assertEqual(server.warnings, ())
        tls = GrpcTlsConfig(cert_file=str(pki / "server.pem"), key_file=str(pki / "server.key"), ca_file=ca)
        await self.serve(GrpcConfig(tls=tls, allowed_clients=("ops",)))
        for generation in range(2):
            credentials = grpc.ssl_channel_credentials(
                (pki / "ca.pem").read_bytes(), (pki / "client.key").read_bytes(), (pki / "client.pem").read_bytes()
            )
            self.assertTrue((await self.ask(self.stub(self.channel(credentials)).ListAgents)).agents, generation)
            self.assertEqual(run(str(pki), "--client", "ops", "--force").returncode, 0)  # the authority stays

    def test_nothing_is_overwritten_unasked(self) -> None:
        self.assertEqual(run(str(self.folder)).returncode, 0)
        before = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        again = run(str(self.folder))
        self.assertEqual((again.returncode, len(again.stderr.splitlines())), (1, 1))
        self.assertIn("--force", again.stderr)
        self.assertEqual({path.name: path.read_bytes() for path in self.folder.iterdir()}, before)
        self.assertEqual(run(str(self.folder), "--force", "--new-authority").returncode, 0)
        self.assertNotEqual((self.folder / "ca.pem").read_bytes(), before["ca.pem"])

    def test_mistakes_are_one_line(self) -> None:
        (self.folder / "file").write_text("")
        for arguments in ((str(self.folder / "file"),), (str(self.folder), "--host", "bücher.example"),
                          (str(self.folder), "--days", "0")):
            made = run(*arguments)
            self.assertNotEqual(made.returncode, 0)
            self.assertNotIn("Traceback", made.stderr)
