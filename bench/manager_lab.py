"""A lab that can start the Manager, and certificates for both sides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.lab import ROOT, Lab, Server


class Pki:
    """An authority, a server's and a client's certificate, as ``scripts/make-certs`` makes them."""

    def __init__(self, folder: Path) -> None:
        subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "make-certs"), str(folder)], check=True,
            stdout=subprocess.DEVNULL,
        )
        self.ca = folder / "ca.pem"
        self.client = (folder / "client.pem", folder / "client.key")
        self._folder = folder

    def tls(self, role: str) -> str:
        """The three files as a section ``tls`` names them; role is ``server`` or ``client``."""
        names = (("cert_file", f"{role}.pem"), ("key_file", f"{role}.key"), ("ca_file", "ca.pem"))
        return "{" + ", ".join(f"{key}: {self._folder}/{name}" for key, name in names) + "}"


class ManagerLab(Lab):
    """A lab that can start the Manager."""

    def pki(self, name: str = "pki") -> Pki:
        """Fresh certificates of an authority of their own."""
        return Pki(self.root / name)

    def manager(self, grpc_port: int, http_port: int, keys: str = "") -> Server:
        """Starts it on loopback with an empty database; further keys in flow style."""
        directory = self._fresh("manager")
        config = directory / "manager.yaml"
        config.write_text(
            f"manager: {{work_dir: {directory}/w, log_file: {directory}/log, grpc_port: {grpc_port},"
            f" http_port: {http_port}{', ' if keys else ''}{keys}}}\n",
            encoding="utf-8",
        )
        return self._serve(directory, [self._twistd, "-n", "hostmanager", "--config", str(config)])
