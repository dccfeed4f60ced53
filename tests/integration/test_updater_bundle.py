"""scripts/bundle as a release uses it: keys, packages of agents, signatures, checks, a first installation."""

from __future__ import annotations

import base64
import json
import os
import platform
import re
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from daemon.model.platform import architecture
from daemon.updater.package.host import this_host
from tests.fakes.packages import Signer, package_of, sha256

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "bundle"
BUNDLED = runpy.run_path(str(SCRIPT.with_name("bundled.py")))
KINDS = ("ed25519", "ecdsa-p256", "ecdsa-p384", "rsa")


def bundle(*words: object, status: int = 0, **environ: str) -> str:
    """What the script printed: on stdout when it is to succeed, else on stderr."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **environ},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """The package of an agent with a library."""
    program = tmp_path / "in" / "node_exporter"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 1.8.2\n")
    program.chmod(0o755)
    (tmp_path / "in" / "rules").write_text("rules\n")
    output = tmp_path / "node_exporter.tar.gz"
    said = bundle(
        "build", "--component", "node_exporter", "--version", "1.8.2", "--main", program,
        "--file", f"etc/rules.conf={tmp_path / 'in' / 'rules'}", "--min-from", "1.7", "--output", output,
    )
    assert f"sha256 {sha256(output.read_bytes())}" in said and "node_exporter 1.8.2, 2 files" in said
    return output


def test_an_agents_package_says_what_it_is_and_is_of_nobody(agent: Path) -> None:
    with tarfile.open(agent) as tar:
        members = tar.getmembers()
        found = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
    assert [m.name for m in members] == ["manifest.json", "etc/rules.conf", "node_exporter"]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 0)}
    assert [m.mode for m in members] == [0o644, 0o644, 0o755]
    assert found == {
        "component": "node_exporter", "version": "1.8.2", "os": "linux", "arch": architecture(platform.machine()),
        "main": "node_exporter", "min_from": "1.7",
        "files": {
            "etc/rules.conf": {"sha256": sha256(b"rules\n")},
            "node_exporter": {"sha256": sha256(b"#!/bin/sh\necho 1.8.2\n")},
        },
    }


def test_the_same_input_makes_the_same_bytes(agent: Path, tmp_path: Path) -> None:
    def again(epoch: str) -> bytes:
        bundle(
            "build", "--component", "node_exporter", "--version", "1.8.2", "--main", tmp_path / "in" / "node_exporter",
            "--file", f"etc/rules.conf={tmp_path / 'in' / 'rules'}", "--min-from", "1.7", "--output", tmp_path / "again",
            SOURCE_DATE_EPOCH=epoch,
        )
        return (tmp_path / "again").read_bytes()

    os.utime(tmp_path / "in" / "rules", (1, 1))
    assert again("0") == agent.read_bytes()
    assert again("1700000000") != agent.read_bytes()
    with tarfile.open(tmp_path / "again") as tar:
        assert {m.mtime for m in tar.getmembers()} == {1_700_000_000}


@pytest.mark.parametrize("kind", KINDS)
def test_keys_sign_and_verify(agent: Path, tmp_path: Path, kind: str) -> None:
    said = bundle("keys", tmp_path / "keys", "--type", kind)
    private, public = tmp_path / "keys" / "update.key", tmp_path / "keys" / "update.pem"
    assert private.stat().st_mode & 0o7777 == 0o600 and public.stat().st_mode & 0o7777 == 0o644
    fingerprint = said.split("fingerprint ")[1].strip()
    signature = bundle("sign", agent, "--key", private).strip()
    assert base64.b64decode(signature, validate=True)
    assert agent.with_name(agent.name + ".sig").read_text() == signature + "\n"
    listed = bundle("verify", agent, "--key", public, "--component", "node_exporter", "--installed", "1.8.1", "--this-host")
    assert f"signed by  {fingerprint}" in listed
    rules, program = sha256(b"rules\n"), sha256(b"#!/bin/sh\necho 1.8.2\n")
    assert listed.splitlines()[-2:] == [
        f"0644            6 {rules} etc/rules.conf", f"0755           21 {program} node_exporter",
    ]
    agent.with_name(agent.name + ".sig").unlink()
    assert "there is no" in bundle("verify", agent, "--key", public, status=1)
    assert bundle("verify", agent, "--key", public, "--signature", signature)


def test_a_reader_who_has_seen_enough_is_no_fault(agent: Path, tmp_path: Path) -> None:
    bundle("keys", tmp_path / "keys")
    bundle("sign", agent, "--key", tmp_path / "keys" / "update.key")
    words = [sys.executable, str(SCRIPT), "verify", str(agent), "--key", str(tmp_path / "keys" / "update.pem")]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_order_is_the_body_of_a_request(agent: Path, tmp_path: Path) -> None:
    bundle("keys", tmp_path / "keys")
    words = ("order", agent, "--url", "https://packages.example.org/a.tar.gz")
    assert "sign the package first" in bundle(*words, status=1)
    signature = bundle("sign", agent, "--key", tmp_path / "keys" / "update.key").strip()
    assert json.loads(bundle(*words)) == {
        "component": "node_exporter", "version": "1.8.2", "download_url": "https://packages.example.org/a.tar.gz",
        "hash": sha256(agent.read_bytes()), "signature": signature,
    }
    assert json.loads(bundle(*words, "--component", "ne-1"))["component"] == "ne-1"
    for content in (b"no archive", b""):
        agent.write_bytes(content)
        assert "Traceback" not in bundle(*words, status=1)


def test_a_passphrase_protects_a_key(agent: Path, tmp_path: Path) -> None:
    bundle("keys", tmp_path / "keys", HOSTDAEMON_KEY_PASSPHRASE="secret")
    private = tmp_path / "keys" / "update.key"
    assert b"ENCRYPTED" in private.read_bytes()
    for wrong in ("", "other"):
        said = bundle("sign", agent, "--key", private, status=1, HOSTDAEMON_KEY_PASSPHRASE=wrong)
        assert "HOSTDAEMON_KEY_PASSPHRASE" in said and "Traceback" not in said
    assert not agent.with_name(agent.name + ".sig").exists()
    bundle("sign", agent, "--key", private, HOSTDAEMON_KEY_PASSPHRASE="secret")
    bundle("verify", agent, "--key", private.with_suffix(".pem"))


def test_a_key_is_never_written_over_nor_used_when_others_can_read_it(agent: Path, tmp_path: Path) -> None:
    bundle("keys", tmp_path / "keys")
    before = (tmp_path / "keys" / "update.key").read_bytes()
    assert "never written over" in bundle("keys", tmp_path / "keys", status=1)
    assert (tmp_path / "keys" / "update.key").read_bytes() == before
    (tmp_path / "keys" / "update.key").chmod(0o640)
    assert "chmod 600" in bundle("sign", agent, "--key", tmp_path / "keys" / "update.key", status=1)


def test_two_keys_in_one_file_let_the_first_be_replaced(agent: Path, tmp_path: Path) -> None:
    for name in ("old", "new"):
        bundle("keys", tmp_path, "--name", name)
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "old.pem").read_bytes() + (tmp_path / "new.pem").read_bytes())
    for name in ("old", "new"):
        bundle("sign", agent, "--key", tmp_path / f"{name}.key")
        bundle("verify", agent, "--key", both)
    assert "not signed by a key of" in bundle("verify", agent, "--key", tmp_path / "old.pem", status=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--installed", "1.8.2"], "not newer"), (["--installed", "1.6"], "update to 1.7 first"),
     (["--version", "1.8.3", "--installed", "1.8"], "1.8.3 was asked for"), (["--component", "telegraf"], "not for telegraf"),
     (["--max-package-size", "100"], "larger than 100 bytes")],
)
def test_verify_refuses_as_the_daemon_does(agent: Path, tmp_path: Path, options: list[str], words: str) -> None:
    bundle("keys", tmp_path)
    bundle("sign", agent, "--key", tmp_path / "update.key")
    said = bundle("verify", agent, "--key", tmp_path / "update.pem", *options, status=1)
    assert words in said and said.startswith("bundle: ") and said.count("\n") == 1


def test_a_damaged_package_is_refused(agent: Path, tmp_path: Path) -> None:
    bundle("keys", tmp_path)
    bundle("sign", agent, "--key", tmp_path / "update.key")
    data = bytearray(agent.read_bytes())
    data[len(data) // 2] ^= 1
    agent.write_bytes(data)
    assert "not signed by a key" in bundle("verify", agent, "--key", tmp_path / "update.pem", status=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [([], "--main is needed"), (["--main", "{main}", "--file", "x"], "is not NAME=PATH"),
     (["--main", "{main}", "--file", "../x={main}"], "not a plain path"),
     (["--main", "{main}", "--file", "main={main}"], "given twice"),
     (["--main", "{main}", "--file", "MAIN={main}"], "cannot both be"),
     (["--main", "{main}", "--file", "x=/nowhere"], "/nowhere is not a file"),
     (["--main", "{main}", "--expires", "tomorrow"], "expires"), (["--main", "{main}", "--version", "new"], "no version"),
     (["--component", "daemon", "--main", "{main}"], "are for agents")],
)
def test_what_cannot_be_built_leaves_no_file(tmp_path: Path, options: list[str], words: str) -> None:
    main = tmp_path / "main"
    main.write_bytes(b"#!/bin/sh\n")
    given = [word.replace("{main}", str(main)) for word in options]
    said = bundle("build", "--component", "x", "--version", "1.0", "--output", tmp_path / "out", *given, status=1)
    assert words in said and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["main"]


# ---------------------------------------------------------------- install

PROGRAM = b"""#!/usr/bin/env python3
import os, sys
print(os.path.realpath(__file__), *sys.argv[1:])
"""
COMMAND_LINE = b"import sys\nprint(__file__, *sys.argv)\n"


def small_daemon(**keys: Any) -> bytes:
    """A package like the daemon's, with next to nothing in it."""
    host = this_host()
    files = {
        "bin/twistd": PROGRAM, "bin/hostctl": COMMAND_LINE,
        "lib/daemon/updater/selfupdate/launcher.py": (ROOT / "daemon/updater/selfupdate/launcher.py").read_bytes(),
    }
    known = {"component": "daemon", "version": "2.0.0", "os": host.os, "arch": host.arch, "python": host.python,
             "libc": host.libc, "main": "bin/twistd"}
    return package_of(files, **(known | keys))


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


def write_signed(folder: Path, signer: Signer, data: bytes) -> Path:
    file = folder / "daemon.tar.gz"
    file.write_bytes(data)
    (folder / "daemon.tar.gz.sig").write_text(signer.sign(data))
    return file


def test_an_installation_starts_what_is_current(tmp_path: Path, signer: Signer) -> None:
    file, root = write_signed(tmp_path, signer, small_daemon(min_from="1.0.0")), tmp_path / "opt" / "hostdaemon"
    assert "hostdaemon 2.0.0; start" in bundle("install", root, file, "--key", signer.public)
    assert (root / "current").readlink() == Path("versions/2.0.0")
    assert sorted(os.listdir(root)) == ["bin", "current", "versions"] and os.listdir(root / "versions") == ["2.0.0"]
    assert json.loads((root / "current" / "manifest.json").read_bytes())["version"] == "2.0.0"
    assert (root / "bin" / "twistd").stat().st_mode & 0o7777 == 0o755
    for cwd in (tmp_path, root / "bin"):
        done = subprocess.run(
            [root / "bin" / "twistd", "-n", "hostdaemon"], cwd=cwd, capture_output=True, text=True, check=True,
            env={"PATH": "/nowhere:/usr/bin:/bin"},
        )
        assert done.stdout == f"{root / 'versions/2.0.0/bin/twistd'} -n hostdaemon\n"
    assert "is an installation already" in bundle("install", root, file, "--key", signer.public, status=1)


def test_its_hostctl_is_that_of_the_current_version_from_wherever_it_is_called(tmp_path: Path, signer: Signer) -> None:
    root, link = tmp_path / "root", tmp_path / "hostctl"
    file = write_signed(tmp_path, signer, small_daemon())
    bundle("install", root, file, "--key", signer.public)
    link.symlink_to(root / "bin" / "hostctl")

    def said(status: int = 0) -> str:
        done = subprocess.run([link, "status", "a b"], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == status, done
        return done.stderr if status else done.stdout

    assert said() == f"{root / 'versions/2.0.0/bin/hostctl'} {root / 'bin/hostctl'} status a b\n"
    (root / "versions" / "2.1.0" / "bin").mkdir(parents=True)
    (root / "current").unlink()
    (root / "current").symlink_to("versions/2.1.0")  # as an update does
    assert said(1) == (
        f"hostctl: {root / 'versions/2.1.0/bin/hostctl'}: No such file or directory; what is installed in {root} "
        "has no hostctl\n"
    )
    (root / "versions" / "2.1.0" / "bin" / "hostctl").write_bytes(COMMAND_LINE)
    assert said() == f"{root / 'versions/2.1.0/bin/hostctl'} {root / 'bin/hostctl'} status a b\n"


def test_an_installation_is_for_everybody_to_read_whatever_the_umask(tmp_path: Path, signer: Signer) -> None:
    file, root = write_signed(tmp_path, signer, small_daemon()), tmp_path / "root"
    before = os.umask(0o077)
    try:
        bundle("install", root, file, "--key", signer.public)
    finally:
        os.umask(before)
    for path in (root, root / "versions", root / "versions" / "2.0.0", root / "bin", root / "bin" / "hostctl"):
        assert path.stat().st_mode & 0o7777 == 0o755, path


@pytest.mark.parametrize(
    ("keys", "words"),
    [({"component": "thing"}, "is for thing, not for daemon"), ({"python": "cp27"}, "is for Python cp27"),
     ({"arch": "pdp11"}, "is for linux/pdp11"), ({"libc": "glibc-99"}, "needs glibc-99"),
     ({"expires": "2020-01-01T00:00:00Z"}, "expired"), ({"version": "1:2.0"}, "not one that scripts/bundle made"),
     ({"main": "lib/daemon/updater/selfupdate/launcher.py"}, "not one that scripts/bundle made")],
)
def test_what_does_not_fit_is_not_installed(tmp_path: Path, signer: Signer, keys: dict[str, Any], words: str) -> None:
    file, root = write_signed(tmp_path, signer, small_daemon(**keys)), tmp_path / "root"
    assert words in bundle("install", root, file, "--key", signer.public, status=1)
    assert os.listdir(root) == ["versions"] and os.listdir(root / "versions") == []


def test_what_is_not_signed_or_damaged_is_not_installed(tmp_path: Path, signer: Signer) -> None:
    root, good = tmp_path / "root", small_daemon()
    (tmp_path / "other").mkdir()
    file = write_signed(tmp_path, Signer(tmp_path / "other"), good)
    assert "not signed by a key" in bundle("install", root, file, "--key", signer.public, status=1)
    file = write_signed(tmp_path, signer, good)
    file.write_bytes(good + b"x")
    assert "not signed by a key" in bundle("install", root, file, "--key", signer.public, status=1)
    (tmp_path / "daemon.tar.gz.sig").unlink()
    assert "give --signature" in bundle("install", root, file, "--key", signer.public, status=1)
    assert not root.exists()


def test_an_installation_that_was_cut_short_is_made_anew(tmp_path: Path, signer: Signer) -> None:
    root = tmp_path / "root"
    for left in ("versions/.staging-install", "versions/2.0.0"):
        (root / left).mkdir(parents=True)
        (root / left / "half").write_bytes(b"")
    bundle("install", root, write_signed(tmp_path, signer, small_daemon()), "--key", signer.public)
    assert os.listdir(root / "versions") == ["2.0.0"] and not (root / "versions" / "2.0.0" / "half").exists()


@pytest.mark.parametrize("words", [(), ("-I",), ("-ISB",), ("-ISBO",), ("-ISBOO",), ("-OO",)])
@pytest.mark.parametrize(("name", "module", "function", "optimize"), [
    ("twistd", "twisted/scripts/twistd.py", "run", 2), ("hostctl", "daemon/cli/entry.py", "main", 0),
])
def test_a_program_starts_itself_anew_until_it_runs_as_it_was_compiled(
    tmp_path: Path, name: str, module: str, function: str, optimize: int, words: tuple[str, ...]
) -> None:
    stand_in = tmp_path / "v" / "lib" / module
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text(
        f"import os, sys\ndef {function}():\n    f = sys.flags\n"
        "    print(f.isolated, f.no_site, f.dont_write_bytecode, f.optimize, os.getpid(), *sys.argv[1:])\n"
    )
    program = tmp_path / "v" / "bin" / name
    program.parent.mkdir()
    program.write_text(BUNDLED[name]())
    process = subprocess.Popen([sys.executable, *words, program, "-n", "a b"], stdout=subprocess.PIPE, text=True)
    said, _ = process.communicate(timeout=30)
    assert said == f"1 1 1 {optimize} {process.pid} -n a b\n"
    assert [path for path in tmp_path.rglob("*") if path.name == "__pycache__"] == []


# ---------------------------------------------------------------- the daemon itself

IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import daemon
for module in pkgutil.walk_packages(daemon.__path__, "daemon."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(sum(name.startswith("daemon.") for name in sys.modules))
"""


# What hostctl imports, ever, and has to compile itself, each time anew.
IMPORT_COMMANDS = """
import importlib, os, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import daemon.cli
for module in pkgutil.iter_modules(daemon.cli.__path__, "daemon.cli."):
    importlib.import_module(module.name)
import click.shell_completion, rich.console, rich.markup, rich.status, yaml
import daemon.config.check, daemon.config.in_force, daemon.config.json_schema, daemon.config.load
files = [(each.__file__, each.__cached__) for each in sys.modules.values() if getattr(each, "__cached__", None)]
print("not compiled:", [file for file, cached in files if file.startswith(sys.argv[1]) and not os.path.exists(cached)])
"""


@pytest.mark.slow
def test_the_real_daemon_runs_from_its_bundle_and_nothing_else(tmp_path: Path, signer: Signer) -> None:
    """Builds it twice with pip, which takes minutes and the network."""
    made = []
    for name in ("one.tar.gz", "two.tar.gz"):
        command = [sys.executable, SCRIPT, "build", "--version", "9.8.7", "--output", tmp_path / name]
        subprocess.run(command, check=True, timeout=900)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    root = tmp_path / "root"
    bundle("install", root, write_signed(tmp_path, signer, made[0]), "--key", signer.public)
    manifest = json.loads((root / "current" / "manifest.json").read_bytes())

    # Compiled, all of it, as the daemon runs.
    suffix = f".{sys.implementation.cache_tag}.opt-2.pyc"
    sources = {name for name in manifest["files"] if name.startswith("lib/daemon/") and name.endswith(".py")}
    compiled = {name for name in manifest["files"] if name.startswith("lib/daemon/") and name.endswith(suffix)}
    assert compiled == {re.sub(r"([^/]+)\.py$", rf"__pycache__/\1{suffix}", name) for name in sources}

    # Packages of the host that break whoever uses them, on the path and in the working directory.
    trap = tmp_path / "trap"
    for name in ("twisted", "daemon", "zope", "yaml"):
        (trap / name).mkdir(parents=True)
        (trap / name / "__init__.py").write_text("raise SystemExit('a package of the host is used')\n")
    base = Path(sys.executable).resolve()
    environ = {"PATH": f"{base.parent}:{os.defpath}", "HOME": str(trap), "PYTHONPATH": str(trap)}

    def run(*command: object) -> str:
        done = subprocess.run(
            [str(word) for word in command], cwd=trap, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    config = tmp_path / "daemon.yaml"
    config.write_text(f"daemon:\n  work_dir: {tmp_path / 'work'}\n")
    for program in (root / "bin" / "twistd", root / "current" / "bin" / "twistd"):
        assert "good; 0 agents" in run(program, "-n", "hostdaemon", "--check", "--config", config)
        assert run(program, "-n", "hostdaemon", "--version") == "hostdaemon 9.8.7\n"
    for program in (root / "bin" / "hostctl", root / "current" / "bin" / "hostctl"):
        assert run(program, "--version") == "hostctl 9.8.7\n"
        assert "from a signed package" in run(program, "update", "--help")  # a docstring
    assert "good; 0 agents" in run(root / "bin" / "hostctl", "config", "check", config)
    assert "daemon:" in run(root / "bin" / "hostctl", "init", "-")
    assert run(base, "-I", "-S", "-B", "-c", IMPORT_COMMANDS, root / "current" / "lib") == "not compiled: []\n"
    imported = int(run(base, "-I", "-S", "-B", "-OO", "-c", IMPORT_ALL, root / "current" / "lib"))
    assert imported >= len([name for name in manifest["files"] if re.fullmatch(r"lib/daemon/.*[a-z]\.py", name)])

    # Nothing was written there by any of it, compiled files and Twisted's cache included.
    version = root / "versions" / "9.8.7"
    there = {str(path.relative_to(version)): path for path in version.rglob("*") if path.is_file()}
    assert set(there) == {"manifest.json", *manifest["files"]}
    for name, entry in manifest["files"].items():
        assert sha256(there[name].read_bytes()) == entry["sha256"], name
