"""Who may sign a package, and what counts as a signature."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa

from daemon.errors import StorageError, UpdateVerifyError
from daemon.updater.package.keys import FILE_MAX, KEYS_MAX, PublicKeys

PACKAGE = b"the bytes of a package"
DIGEST = hashlib.sha256(PACKAGE).digest()
KEYS: dict[str, Any] = {
    "rsa-2048": rsa.generate_private_key(65537, 2048),
    "ecdsa-secp256r1": ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-secp384r1": ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
OTHERS: dict[str, Any] = {
    "rsa-2048": rsa.generate_private_key(65537, 2048),
    "ecdsa-secp256r1": ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-secp384r1": ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}


def pem(private: Any) -> bytes:
    data: bytes = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


def sign(private: Any, data: bytes = PACKAGE) -> str:
    if isinstance(private, rsa.RSAPrivateKey):
        signature = private.sign(data, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        signature = private.sign(data, ec.ECDSA(hashes.SHA256()))
    else:
        signature = private.sign(hashlib.sha256(data).digest())
    return base64.b64encode(signature).decode()


ALL = PublicKeys.parse(b"".join(b"# a comment\n" + pem(key) for key in KEYS.values()), "keys.pem")


@pytest.mark.parametrize("kind", KEYS)
def test_the_key_that_signed_is_named(kind: str) -> None:
    der = KEYS[kind].public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert ALL.verify(DIGEST, sign(KEYS[kind])) == hashlib.sha256(der).hexdigest()
    assert {key.fingerprint: key.kind for key in ALL.keys}[hashlib.sha256(der).hexdigest()] == kind


@pytest.mark.parametrize("kind", KEYS)
def test_another_digest_another_key_or_a_changed_signature_is_refused(kind: str) -> None:
    good = sign(KEYS[kind])
    raw = bytearray(base64.b64decode(good))
    raw[-1] ^= 1
    wrong = [
        (hashlib.sha256(b"other").digest(), good), (DIGEST, sign(OTHERS[kind])),
        (DIGEST, base64.b64encode(raw).decode()), (DIGEST, base64.b64encode(raw[:-1]).decode()),
        (DIGEST, base64.b64encode(bytes(len(raw))).decode()),
    ]
    for digest, signature in wrong:
        with pytest.raises(UpdateVerifyError, match="not signed by a key of keys.pem .*ask who made it"):
            ALL.verify(digest, signature)


def test_a_signature_of_the_digest_as_if_it_were_the_package_is_refused() -> None:
    for kind in ("rsa-2048", "ecdsa-secp256r1"):
        with pytest.raises(UpdateVerifyError):
            ALL.verify(DIGEST, sign(KEYS[kind], DIGEST))
    over_file = base64.b64encode(KEYS["ed25519"].sign(PACKAGE)).decode()
    with pytest.raises(UpdateVerifyError):
        ALL.verify(DIGEST, over_file)


def test_other_paddings_and_hashes_are_refused() -> None:
    key = KEYS["rsa-2048"]
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
    for signature in (
        key.sign(PACKAGE, pss, hashes.SHA256()), key.sign(PACKAGE, padding.PKCS1v15(), hashes.SHA1()),
        key.sign(PACKAGE, padding.PKCS1v15(), hashes.SHA512()),
        KEYS["ecdsa-secp384r1"].sign(PACKAGE, ec.ECDSA(hashes.SHA384())),
    ):
        with pytest.raises(UpdateVerifyError):
            ALL.verify(DIGEST, base64.b64encode(signature).decode())


def test_line_ends_in_the_base64_do_not_matter() -> None:
    text = sign(KEYS["rsa-2048"])
    assert ALL.verify(DIGEST, "\n".join(text[n : n + 64] for n in range(0, len(text), 64)) + "\n")


@pytest.mark.parametrize("text", ["", "  ", "not base64!", "ab", "é", "QQ==QQ==x", "A" * 8196, "_-_-"])
def test_what_is_not_base64_is_told_how_to_make_it(text: str) -> None:
    with pytest.raises(UpdateVerifyError, match="is not base64.*scripts/bundle sign"):
        ALL.verify(DIGEST, text)


def test_a_digest_of_another_length_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ALL.verify(DIGEST[:-1], sign(KEYS["ed25519"]))


def private_pem() -> bytes:
    data: bytes = KEYS["ed25519"].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return data


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "holds 0 PEM blocks"),
        (b"ssh-ed25519 AAAA", "holds 0 PEM blocks"),
        (pem(KEYS["ed25519"]) * (KEYS_MAX + 1), f"holds {KEYS_MAX + 1} PEM blocks"),
        (pem(KEYS["ed25519"]) + private_pem(), "holds a private key; take that off this host"),
        (pem(KEYS["ed25519"])[:-10], "no proper end"),
        (pem(KEYS["ed25519"]) + b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "key 2 is damaged"),
        (pem(KEYS["ed25519"]).replace(b"PUBLIC KEY", b"CERTIFICATE"), "holds a CERTIFICATE"),
        (pem(rsa.generate_private_key(65537, 1024)), "RSA of 1024 bits"),
        (pem(ec.generate_private_key(ec.SECP521R1())), "ECDSA on secp521r1"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "ECDSA on secp256k1"),
        (pem(ed448.Ed448PrivateKey.generate()), "of another kind"),
        (pem(dsa.generate_private_key(2048)), "of another kind"),
    ],
)
def test_a_file_that_is_not_all_good_keys_is_refused_whole(content: bytes, cause: str) -> None:
    with pytest.raises(UpdateVerifyError, match=cause) as caught:
        PublicKeys.parse(content, "keys.pem")
    assert caught.value.message.startswith("the public keys in keys.pem cannot be used: ")


def test_a_file_is_read_through_links_but_not_when_anybody_may_write_it(tmp_path: Path) -> None:
    real, link = tmp_path / "real.pem", tmp_path / "link.pem"
    real.write_bytes(pem(KEYS["ed25519"]))
    real.chmod(0o644)
    link.symlink_to(real)
    assert PublicKeys.load(link).verify(DIGEST, sign(KEYS["ed25519"]))
    real.chmod(0o646)
    with pytest.raises(UpdateVerifyError, match="anybody may write it.*chmod o-w"):
        PublicKeys.load(link)


def test_what_cannot_be_read_is_refused_and_nothing_hangs(tmp_path: Path) -> None:
    with pytest.raises(UpdateVerifyError, match="no file of public keys at .*update.public_key_file"):
        PublicKeys.load(tmp_path / "missing.pem")
    with pytest.raises(UpdateVerifyError, match="not a regular file"):
        PublicKeys.load(tmp_path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(UpdateVerifyError, match="not a regular file"):
        PublicKeys.load(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes(FILE_MAX + 1))
    with pytest.raises(UpdateVerifyError, match=f"larger than {FILE_MAX}"):
        PublicKeys.load(tmp_path / "large")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageError, match="remove the symbolic link"):
        PublicKeys.load(tmp_path / "loop")


@pytest.mark.parametrize(
    "generate",
    [["RSA", "-pkeyopt", "rsa_keygen_bits:2048"], ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
     ["EC", "-pkeyopt", "ec_paramgen_curve:P-384"]],
    ids=["rsa", "p256", "p384"],
)
def test_what_openssl_signs_is_accepted(tmp_path: Path, generate: list[str]) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")

    def run(*args: str) -> None:
        subprocess.run([openssl, *args], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "package").write_bytes(PACKAGE)
    run("genpkey", "-algorithm", *generate, "-out", "key")
    run("pkey", "-in", "key", "-pubout", "-out", "public")
    run("dgst", "-sha256", "-sign", "key", "-out", "sig", "package")
    signature = base64.encodebytes((tmp_path / "sig").read_bytes()).decode()
    assert PublicKeys.load(tmp_path / "public").verify(DIGEST, signature)
