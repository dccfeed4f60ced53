"""What docs/releases.md shows is what the daemon takes."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from daemon.model.update import UpdateRequest
from daemon.updater.package.keys import decode_signature
from daemon.updater.package.manifest import SIZE_MAX, Manifest, parse
from daemon.updater.package.unpacking import Limits
from daemon.updater.package.version import Version, newer

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "releases.md").read_text(encoding="utf-8")


def example(tag: str) -> str:
    (found,) = re.findall(rf"^```json {tag}\n(.*?)^```$", TEXT, re.M | re.S)
    return str(found)


def test_the_manifest_is_one_and_every_key_is_explained() -> None:
    found = parse(example("manifest").encode())
    assert found.main == "node_exporter" and found.mode_of("etc/web.yml") == 0o644
    table = TEXT[TEXT.index("| key | means |"):].split("\n\n")[0]
    documented = {key for line in table.split("\n")[2:] for key in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert documented == set(Manifest.__struct_fields__)


def test_the_request_has_the_keys_of_one() -> None:
    found = json.loads(example("request"))
    assert set(found) == {f.name for f in dataclasses.fields(UpdateRequest)} - {"update_data"}
    assert len(bytes.fromhex(found["hash"])) == 32 and len(decode_signature(found["signature"])) == 64


def test_the_limits_are_those_that_hold() -> None:
    limits = Limits(packed_bytes=1)
    assert (limits.growth, limits.ratio, limits.files, SIZE_MAX) == (4, 100, 16_384, 2**20)
    for words in ("four times that unpacked", "a hundredfold", "16,384 files", "1 MiB of manifest"):
        assert words in TEXT


def test_the_order_of_versions_is_as_shown() -> None:
    shown = re.findall(r"`(\S+) < (\S+)`", TEXT)
    assert len(shown) >= 5
    for older, later in shown:
        assert newer(later, older), (older, later)
    assert Version.parse("v1.0") == Version.parse("1.0")
