"""Certificates read by hand say what the library says of them; damaged ones are damaged, never half-read."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import random
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from daemon.rpc.x509 import fits, read_pem
from tests.fakes.rpc_certs import Cert

CA = Cert("authority", ca=True)
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def made(subject: x509.Name, san: list[x509.GeneralName], begins: str, ends: str, key: Any = CA.key) -> bytes:
    """A certificate of any shape, signed by the authority."""
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(CA.name).public_key(key.public_key())
        .serial_number(2**150).not_valid_before(datetime.datetime.fromisoformat(begins))
        .not_valid_after(datetime.datetime.fromisoformat(ends))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=True)
    return builder.sign(CA.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def cn(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


@pytest.mark.parametrize(("begins", "ends"), [
    ("1950-01-01T00:00:00", "1999-12-31T23:59:59"), ("2020-02-29T12:34:56", "2049-12-31T23:59:59"),
    ("2049-12-31T23:59:59", "2050-01-01T00:00:00"), ("2024-01-01T00:00:00", "9999-12-31T23:59:59"),
])
def test_validity_in_both_forms_of_time(begins: str, ends: str) -> None:
    pem = made(cn("a"), [], begins, ends)
    theirs = x509.load_pem_x509_certificate(pem)
    (ours,) = read_pem(pem)
    assert ours.not_before == theirs.not_valid_before_utc.timestamp()
    assert ours.not_after == theirs.not_valid_after_utc.timestamp()


@pytest.mark.parametrize(("subject", "san", "names"), [
    (x509.Name([]), [], ()),
    (cn("web-1"), [], ("web-1",)),
    (cn("a", "b"), [], ("a", "b")),
    (x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "o" * 60), *cn("M\u00fcller \u4e2d")]), [], ("M\u00fcller \u4e2d",)),
    (cn("a"), [x509.DNSName("a"), x509.DNSName("*.example.org")], ("a", "*.example.org")),
    (cn("a"), [
        x509.UniformResourceIdentifier("spiffe://fleet/a"), x509.RFC822Name("a@example.org"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.7")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::7")),
        x509.DirectoryName(cn("elsewhere")), x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
    ], ("a", "spiffe://fleet/a", "a@example.org", "10.0.0.7", "2001:db8::7")),
    (cn("many"), [x509.DNSName(f"host-{n}.example.org") for n in range(3000)],
     ("many", *(f"host-{n}.example.org" for n in range(3000)))),
])
def test_names_are_common_then_alternative(
    subject: x509.Name, san: list[x509.GeneralName], names: tuple[str, ...]
) -> None:
    (ours,) = read_pem(made(subject, san, "2024-01-01", "2030-01-01"))
    assert ours.names == names


@pytest.mark.parametrize(("key", "spoken"), [
    (RSA, True), (ec.generate_private_key(ec.SECP256R1()), True), (ec.generate_private_key(ec.SECP384R1()), True),
    (ec.generate_private_key(ec.SECP521R1()), False), (ec.generate_private_key(ec.SECP256K1()), False),
    (ed25519.Ed25519PrivateKey.generate(), False), (dsa.generate_private_key(1024), False),
])
def test_the_kinds_of_key_that_grpc_speaks(key: Any, spoken: bool) -> None:
    (ours,) = read_pem(made(cn("a"), [], "2024-01-01", "2030-01-01", key))
    assert ours.spoken is spoken


def test_every_certificate_of_a_file_in_order_with_text_between() -> None:
    text = b"subject=CN = one\n" + Cert("one", CA).pem + b"\r\n# comment\n" + Cert("two", CA).pem.replace(b"\n", b"\r\n")
    assert [each.names for each in read_pem(text)] == [("one",), ("two",)]


def test_damaged_ones_are_told_and_nothing_else_is_raised() -> None:
    der = base64.b64decode(b"".join(CA.pem.split(b"\n")[1:-2]))
    chance = random.Random(7)
    refused = 0
    for number in range(3000):
        data = bytearray(der[: chance.randrange(len(der))] if number % 3 == 0 else der)
        for _ in range(chance.randrange(4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(bytes(data)) + b"\n-----END CERTIFICATE-----\n"
        try:
            read_pem(CA.pem + pem)
        except ValueError as error:
            assert "the 2. certificate is damaged" in str(error)
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
@pytest.mark.parametrize("key", [RSA, ec.generate_private_key(ec.SECP384R1())])
def test_a_key_fits_its_own_certificate_alone(key: Any, form: str) -> None:
    def pem(key: Any) -> bytes:
        data: bytes = key.private_bytes(
            serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), serialization.NoEncryption()
        )
        return data

    cert = made(cn("a"), [], "2024-01-01", "2030-01-01", key)
    assert fits(cert + CA.pem, pem(key))
    assert not fits(cert, pem(CA.key))
    assert not fits(CA.pem + cert, pem(RSA))
    for bad in (b"", b"no key", cert, pem(key)[:60]):
        with pytest.raises(ValueError):
            fits(cert, bad)
