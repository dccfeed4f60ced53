"""What goes into the daemon's package: the daemon, everything it needs, and a twistd that uses nothing else.

Used by scripts/bundle, which has put the checkout on the path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.updater.package.host import this_host
from daemon.updater.package.version import Version

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
PROGRAM = "bin/twistd"
PLUGIN_CACHE = "lib/twisted/plugins/dropin.cache"
SOURCES = ("setup.py", "pyproject.toml", "README.md", "daemon", "twisted")
# What of the installed packages no daemon needs: tests, what compilers read, where pip noted what it did.
TESTS = ("test", "tests", "_test")
NEEDLESS = (".pyi", ".pyx", ".pxd", ".c", ".h", ".proto")
NOTES = ("RECORD", "INSTALLER", "REQUESTED", "WHEEL", "direct_url.json", "entry_points.txt", "top_level.txt")
GLIBC = re.compile(rb"(?<=\0)GLIBC_([0-9]+(?:\.[0-9]+)+)(?=\0)")  # the symbol versions an ELF file asks for

ENTRY = '''\
#!/usr/bin/env python3
"""twistd with the packages of ../lib and no others of this host. Made by scripts/bundle."""

import os
import sys

PYTHON = {python}
# No variables, no site-packages, no user's own; nothing is written here; no docstrings, which saves memory.
WORDS = ["-I", "-S", "-B", "-OO"]

here = os.path.realpath(__file__)  # not by way of "current": what is imported late must be of this version
right = sys.version_info[:2] == PYTHON
flags = sys.flags
if not (right and flags.isolated and flags.no_site and flags.dont_write_bytecode and flags.optimize == 2):
    name = "python%d.%d" % PYTHON
    if right:
        os.execv(sys.executable, [sys.executable] + WORDS + [here] + sys.argv[1:])
    if not flags.isolated:  # else it is what goes by that name
        try:
            os.execvp(name, [name] + WORDS + [here] + sys.argv[1:])
        except OSError:
            pass
    sys.exit("hostdaemon: %s needs %s, and %s is another; install that one" % (here, name, sys.executable))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(here)), "lib"))
sys.argv[0] = here

from twisted.scripts.twistd import run

run()
'''

# Runs on the tree alone, as the installed version will.
COMPILE = '''\
import pathlib, py_compile, sys
lib = pathlib.Path(sys.argv[1])
for path in sorted(lib.rglob("*.py")):
    try:
        py_compile.compile(
            str(path), dfile=str(path.relative_to(lib.parent)), doraise=True, optimize=2,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    except py_compile.PyCompileError:
        print("bundle: not compiled: %s" % path.relative_to(lib), file=sys.stderr)
'''
PLUGINS = '''\
import sys
sys.path.insert(0, sys.argv[1])
import twisted.plugins
from twisted.plugin import getCache
names = [plugin.name for dropin in getCache(twisted.plugins).values() for plugin in dropin.plugins]
sys.exit("hostdaemon" not in names)
'''


class Fault(Exception):
    """What the user has to know; ends the script."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What goes into a package."""

    files: Mapping[str, Path]
    main: str

    def mode(self, name: str) -> int:
        return 0o755 if name == self.main or self.files[name].stat().st_mode & 0o100 else 0o644


def daemon_content(checkout: Path, work: Path, version: str, constraints: list[Path]) -> Content:
    """Everything the daemon needs, installed below ``work``, as it will be on hosts."""
    sources, tree = work / "sources", work / "tree"
    sources.mkdir()
    for name in SOURCES:  # a copy: setuptools writes into what it builds, and takes up what it wrote before
        if (checkout / name).is_dir():
            made_here = shutil.ignore_patterns("__pycache__", "dropin.cache")
            shutil.copytree(checkout / name, sources / name, ignore=made_here)
        else:
            shutil.copy(checkout / name, sources / name)
    stamp(sources / "daemon" / "__init__.py", version)
    if not constraints:  # what was tested is what is shipped
        constraints = [installed_packages(work / "constraints.txt")]
    pinned = [word for path in constraints for word in ("--constraint", str(path))]
    target = ["--no-compile", "--no-warn-script-location", "--target", str(tree / "lib")]
    run([*PIP, "install", "--quiet", *target, *pinned, str(sources)], "pip cannot install the daemon")
    strip(tree / "lib")
    (tree / "bin").mkdir()
    (tree / PROGRAM).write_text(ENTRY.format(python=repr(sys.version_info[:2])))
    shutil.copy(checkout / "LICENSE", tree / "LICENSE")
    # Compiled here, for hosts where the daemon may not write, and as the program starts itself: with -OO.
    # Unchecked: what is signed needs no other check.
    # The seed makes the order of sets in the compiled files the same each time.
    alone = [sys.executable, "-s", "-S", "-c", COMPILE, str(tree / "lib")]
    run(alone, "the sources cannot be compiled", env={"PYTHONHASHSEED": "0"})
    alone = [sys.executable, "-I", "-S", "-B", "-c", PLUGINS, str(tree / "lib")]
    run(alone, "twistd does not find the daemon's plug-in")
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_dir())
    if PLUGIN_CACHE not in names:
        raise Fault("twisted wrote no dropin.cache")
    return Content(files={name: tree / name for name in names}, main=PROGRAM)


def stamp(path: Path, version: str) -> None:
    """The version as the daemon itself will tell it."""
    before = path.read_text(encoding="utf-8")
    text, count = re.subn(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', before)
    if count != 1:
        raise Fault(f"{path.name} of the package daemon has no __version__")
    path.write_text(text, encoding="utf-8")


def installed_packages(path: Path) -> Path:
    """The packages of the running Python, as constraints for pip."""
    found = subprocess.run(
        [*PIP, "list", "--format=freeze", "--exclude-editable"], check=False, capture_output=True, text=True
    )
    if found.returncode:
        raise Fault(f"pip cannot list what is installed: {found.stderr.strip()}")
    path.write_text(found.stdout)
    return path


def strip(lib: Path) -> None:
    """Takes away what no daemon needs."""
    shutil.rmtree(lib / "bin", ignore_errors=True)
    for path in sorted(lib.rglob("*")):
        in_notes = path.parent.suffix == ".dist-info"
        if path.is_symlink():
            raise Fault(f"{path.relative_to(lib)} is a link; packages hold none")
        if path.is_dir() and (path.name in (*TESTS, "__pycache__") or path.match("hostdaemon-*.dist-info")):
            shutil.rmtree(path)
        elif path.is_file() and (path.suffix in NEEDLESS or (in_notes and path.name in NOTES)):
            path.unlink()


def c_library(content: Content) -> str:
    """The oldest C library the compiled parts run with; this host's where that cannot be seen."""
    here = this_host().libc
    if not here.startswith("glibc-"):
        return here
    needed = set()
    for path in content.files.values():
        with path.open("rb") as file:
            if file.read(4) == b"\x7fELF":
                needed |= {found.decode() for found in GLIBC.findall(file.read())}
    return f"glibc-{max(needed, key=Version.parse)}" if needed else here


def run(command: list[str], fault: str, env: Mapping[str, str] | None = None) -> None:
    if subprocess.run(command, check=False, env={**os.environ, **(env or {})}).returncode:
        raise Fault(fault)
