"""The keys that may sign packages, and the check of a signature.

A signature is over the SHA-256 of the whole package: RSA (PKCS#1 v1.5) and ECDSA as ``openssl dgst -sha256
-sign`` makes them; Ed25519 signs the 32 bytes of the digest. Several keys in one PEM file let a key be
replaced: the new one is added everywhere before the first package is signed with it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.durable.explain import storage_error
from daemon.errors import UpdateVerifyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

FILE_MAX = 256 * 1024
KEYS_MAX = 32  # every one of them is tried
RSA_BITS_MIN = 2048
RSA_BITS_MAX = 16384  # beyond, one check takes longer than anybody waits
CURVES = frozenset({"secp256r1", "secp384r1"})
SIGNATURE_MAX = 8192  # characters; an RSA signature of 16384 bits has 2732, and line ends
DIGEST_BYTES = 32

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----.*?-----END \1-----", re.S)
_BEGIN = re.compile(rb"-----BEGIN ")
_PUBLIC = frozenset({b"PUBLIC KEY", b"RSA PUBLIC KEY"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """One key.

    Attributes:
        kind: ``rsa-3072``, ``ecdsa-secp256r1``, ``ed25519``.
        fingerprint: SHA-256 of its SubjectPublicKeyInfo in hex, as ``openssl pkey -pubin -outform DER |
            sha256sum`` prints it.
        check: takes signature and digest; raises when they do not belong together.
    """

    kind: str
    fingerprint: str
    check: Callable[[bytes, bytes], None]


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """The keys of one file.

    Attributes:
        keys: at least one.
        source: the file, for messages.
    """

    keys: tuple[PublicKey, ...]
    source: str

    @classmethod
    def load(cls, path: Path) -> PublicKeys:
        """Reads a PEM file. Blocks; loads ``cryptography``.

        One key that is not good refuses the whole file: a key that is left out silently is missed on the
        day it is needed.

        Raises:
            UpdateVerifyError: D4002, there is no such file, anybody may write it, or it holds anything but
                1 to 32 good public keys.
            StorageError: D1004, it cannot be read.
        """
        return cls.parse(_read(path), str(path))

    @classmethod
    def parse(cls, pem: bytes, source: str) -> PublicKeys:
        """Like :meth:`load`, of the content of a file; text outside of the blocks is ignored."""
        blocks = list(_BLOCK.finditer(pem))
        if len(blocks) != len(_BEGIN.findall(pem)):
            raise _refused(source, "a block in it has no proper end", "copy the whole key again")
        if not 0 < len(blocks) <= KEYS_MAX:
            raise _refused(source, f"it holds {len(blocks)} PEM blocks", f"write 1 to {KEYS_MAX} public keys")
        for block in blocks:
            if b"PRIVATE" in block[1]:
                raise _refused(
                    source, "it holds a private key", "take that off this host and write the public key; "
                    "who can read it can sign packages: replace the key",
                )
            if block[1] not in _PUBLIC:
                step = "write the public key alone (of a certificate: openssl x509 -pubkey -noout)"
                raise _refused(source, f"it holds a {block[1].decode()}", step)
        return cls(tuple(_public_key(block[0], source, n) for n, block in enumerate(blocks, 1)), source)

    def verify(self, digest: bytes, signature_b64: str) -> str:
        """Checks that one of the keys signed the digest.

        Args:
            digest: the 32 bytes of the package's SHA-256.
            signature_b64: in base64; line ends as ``base64`` writes them do not matter.

        Returns:
            the fingerprint of the key that did.

        Raises:
            UpdateVerifyError: D4002, none did, or the signature is not base64.
        """
        if len(digest) != DIGEST_BYTES:
            raise ValueError("a SHA-256 has 32 bytes")
        signature = decode_signature(signature_b64)
        from cryptography.exceptions import InvalidSignature

        for key in self.keys:
            try:
                key.check(signature, digest)
            except (InvalidSignature, ValueError):  # ValueError: not even the length fits this kind of key
                continue
            return key.fingerprint
        known = ", ".join(f"{key.kind} {key.fingerprint[:16]}" for key in self.keys)
        raise UpdateVerifyError(
            f"the package is not signed by a key of {self.source} ({known}): it was changed or damaged on "
            "its way, or signed with another key; do not use it, ask who made it",
            keys=tuple(key.fingerprint for key in self.keys),
        )


def decode_signature(text: str) -> bytes:
    """The bytes of a signature in base64.

    Raises:
        UpdateVerifyError: D4002, it is empty, too long or not base64.
    """
    signature = b""
    try:
        if len(text) <= SIGNATURE_MAX:
            signature = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        pass  # told below, like an empty one
    if not signature:
        raise UpdateVerifyError(
            f"the signature is not base64 of at most {SIGNATURE_MAX} characters; send what "
            "'scripts/bundle sign' prints, or the output of 'openssl dgst -sha256 -sign KEY | base64'"
        )
    return signature


def _read(path: Path) -> bytes:
    """Links are followed: an operator's configuration is often made of them."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        step = "put the public key of those who make packages there, or correct update.public_key_file"
        raise UpdateVerifyError(f"there is no file of public keys at {path}; {step}") from error
    except OSError as error:
        raise storage_error("read", path, error) from error
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise _refused(str(path), "it is not a regular file", "name the PEM file itself")
        if mode & stat.S_IWOTH:
            raise _refused(str(path), "anybody may write it, and with it sign packages", f"chmod o-w {path}")
        parts, left = [], FILE_MAX + 1
        while left > 0 and (part := os.read(fd, left)):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise storage_error("read", path, error) from error
    finally:
        os.close(fd)
    if left <= 0:
        raise _refused(str(path), f"it is larger than {FILE_MAX} bytes", "write the public keys alone")
    return b"".join(parts)


def _refused(source: str, cause: str, step: str) -> UpdateVerifyError:
    return UpdateVerifyError(f"the public keys in {source} cannot be used: {cause}; {step}")


def _public_key(pem: bytes, source: str, number: int) -> PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(pem)
        der = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _refused(source, f"key {number} is damaged or of an unknown kind", "copy it again") from error
    found = _checker(key)
    if isinstance(found, str):
        raise _refused(
            source, f"key {number} is {found}",
            f"use RSA of {RSA_BITS_MIN} to {RSA_BITS_MAX} bits, ECDSA P-256 or P-384, or Ed25519",
        )
    kind, check = found
    return PublicKey(kind=kind, fingerprint=hashlib.sha256(der).hexdigest(), check=check)


def _checker(key: PublicKeyTypes) -> tuple[str, Callable[[bytes, bytes], None]] | str:
    """How a key checks, with its kind; or what is wrong with it."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from cryptography.hazmat.primitives.hashes import SHA256

    hashed = Prehashed(SHA256())
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "ed25519", key.verify
    if isinstance(key, rsa.RSAPublicKey):
        exponent = key.public_numbers().e
        if not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX or exponent < 3 or not exponent & 1:
            return f"RSA of {key.key_size} bits with exponent {exponent}"
        pkcs1 = padding.PKCS1v15()
        return f"rsa-{key.key_size}", lambda signature, digest: key.verify(signature, digest, pkcs1, hashed)
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in CURVES:
            return f"ECDSA on {key.curve.name}"
        ecdsa = ec.ECDSA(hashed)
        return f"ecdsa-{key.curve.name}", lambda signature, digest: key.verify(signature, digest, ecdsa)
    return f"of another kind ({type(key).__name__.strip('_')})"
