"""Makes packages for tests: good ones as a maker would, and any other by parts of an archive."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

Part = tuple[tarfile.TarInfo, bytes]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest_of(files: Mapping[str, bytes], **keys: Any) -> dict[str, Any]:
    """A manifest for these files; ``keys`` replace or add, None takes away."""
    found: dict[str, Any] = {
        "component": "thing", "version": "1.1.0", "os": "linux", "arch": "amd64",
        "files": {name: {"sha256": sha256(data)} for name, data in files.items()},
    }
    if len(files) > 1:
        found["main"] = next(iter(files))
    found |= keys
    return {key: value for key, value in found.items() if value is not None}


def part(name: str, data: bytes = b"", **attributes: Any) -> Part:
    """A member; ``attributes`` of ``TarInfo`` such as type, mode, linkname, pax_headers."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def tar_of(parts: Iterable[Part], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for info, data in parts:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def packed(tar: bytes) -> bytes:
    return gzip.compress(tar, mtime=0)


def archive_of(manifest: Mapping[str, Any] | bytes, parts: Iterable[Part]) -> bytes:
    """A package of a manifest and members that need not fit to it."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    return packed(tar_of([part("manifest.json", text), *parts]))


def package_of(files: Mapping[str, bytes], **keys: Any) -> bytes:
    """A good package, unless ``keys`` of its manifest make it another one."""
    return archive_of(manifest_of(files, **keys), [part(name, data) for name, data in files.items()])


class Signer:
    """An Ed25519 key whose public half is in a file."""

    def __init__(self, folder: Path, name: str = "update.pem") -> None:
        self._key = ed25519.Ed25519PrivateKey.generate()
        self.public = folder / name
        self.public.write_bytes(self.pem)

    @property
    def pem(self) -> bytes:
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, package: bytes) -> str:
        """The signature in base64."""
        return base64.b64encode(self._key.sign(hashlib.sha256(package).digest())).decode()
