"""Certificates made on the spot for tests of gRPC: an authority, what it signs, and their files."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


class Cert:
    """A certificate and its key; it may sign others.

    Args:
        name: its common name.
        issuer: who signs it; itself when None.
        ca: whether it may sign.
        dns: names of a server; a certificate that has some is one of a server and of a client.
        days: it ends that many days from now; negative ones are over.
        begins: it begins that many days from now.
        key: on P-256 where None is given.
    """

    def __init__(
        self, name: str, issuer: Cert | None = None, *, ca: bool = False, dns: tuple[str, ...] = (),
        days: float = 90, begins: float = -10, key: Any = None,
    ) -> None:
        self.key = key if key is not None else ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
        signer = issuer or self
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + min(begins, days - 1) * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if dns else [])]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if dns:
            names = x509.SubjectAlternativeName([_general_name(each) for each in dns])
            builder = builder.add_extension(names, critical=False)
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, password: bytes | None = None) -> bytes:
        """The private key."""
        how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)

    def write(self, folder: Path, name: str) -> tuple[str, str]:
        """Certificate and key as files, each replaced in one step."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        for path, data in ((certificate, self.pem), (key, self.key_pem())):
            fresh = path.with_suffix(path.suffix + ".new")
            fresh.write_bytes(data)
            fresh.chmod(0o600)
            fresh.rename(path)
        return str(certificate), str(key)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.UniformResourceIdentifier(name) if "://" in name else x509.DNSName(name)
