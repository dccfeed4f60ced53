"""What ``hostctl update`` sends: a package that lies here, or where it is, with its hash and signature."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import click

from daemon.cli.faults import CliFault

_SCHEMES = ("https://", "http://")
_MANIFEST = "manifest.json"
_MANIFEST_MAX = 4 * 2**20
_READ_MAX = 1024 * 2**20
_HINT = "docs/releases.md: how packages are made and signed"


def request_of(
    component: str, source: str, *, version: str | None, signature: str | None, sig_file: str | None,
    digest: str | None,
) -> dict[str, Any]:
    """The body of ``POST /v1/updates``.

    Args:
        component: ``daemon``, an agent's id, or ``agent``.
        source: a file or a URL.
        version: None: the file's manifest says it.
        signature, sig_file: base64, or the file that holds it; None: ``SOURCE.sig`` beside a file.
        digest: SHA-256 in hex; None: the file's.

    Raises:
        click.UsageError: something is missing that cannot be found out.
        CliFault: a file cannot be read or is no package.
    """
    if signature and sig_file:
        raise click.UsageError("--signature and --sig-file say the same; name one")
    body: dict[str, Any] = {"component": component}
    if source.startswith(_SCHEMES):
        if version is None or digest is None or not (signature or sig_file):
            raise click.UsageError(
                "of a URL name --version, --hash and --signature or --sig-file; scripts/bundle printed them"
            )
        body |= {"version": version, "hash": digest, "download_url": source}
    else:
        data = _read(Path(source))
        found = hashlib.sha256(data).hexdigest()
        if digest is not None and digest.lower() != found:
            raise CliFault(f"{source} has the SHA-256 {found}: it is damaged, or another file", hint=_HINT)
        if not signature and not sig_file:
            sig_file = f"{source}.sig"
            if not Path(sig_file).exists():
                raise click.UsageError(f"name --signature or --sig-file, for there is no {sig_file}")
        body |= {
            "version": version or manifest_version(data, source), "hash": found,
            "update_data": base64.b64encode(data).decode(),
        }
    body["signature"] = signature or _signature(Path(str(sig_file)))
    return body


def manifest_version(data: bytes, name: str) -> str:
    """The version a package says of itself; nothing of it is believed, the daemon checks it all.

    Raises:
        click.UsageError: it is no package with a manifest.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            member = archive.next()
            file = archive.extractfile(member) if member is not None and member.name == _MANIFEST else None
            version = json.loads(file.read(_MANIFEST_MAX))["version"] if file is not None else None
    except (tarfile.TarError, OSError, EOFError, LookupError, ValueError, TypeError, RecursionError) as error:
        raise click.UsageError(f"{name} has no readable manifest ({error}); name --version") from error
    if not isinstance(version, str):
        raise click.UsageError(f"{name} does not begin with a manifest that names a version; name --version")
    return version


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_READ_MAX + 1)
    except OSError as error:
        hint = "name a package file, or its URL"
        raise CliFault(f"{path} cannot be read: {error.strerror}", hint=hint) from error
    if len(data) > _READ_MAX:
        hint = "serve it over HTTP and name its URL (update.allowed_urls)"
        raise CliFault(f"{path} is larger than 1 GiB", hint=hint)
    return data


def _signature(path: Path) -> str:
    try:
        text = "".join(path.read_text(encoding="ascii").split())
        base64.b64decode(text, validate=True)
    except OSError as error:
        raise CliFault(f"the signature {path} cannot be read: {error.strerror}", hint=_HINT) from error
    except (UnicodeDecodeError, binascii.Error) as error:
        raise CliFault(f"{path} is no signature in base64", hint=_HINT) from error
    return text
