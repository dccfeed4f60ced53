"""What goes into the daemon's package: the daemon, everything it needs, and a twistd and a hostctl that use
nothing else.

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
COMMAND_LINE = "bin/hostctl"
# What hostctl imports; compiled with docstrings too, for click takes the texts of --help from them.
COMMAND_LINE_USES = (
    "daemon/__init__.py", "daemon/errors.py", "daemon/cli", "daemon/config",
    "click", "msgspec", "rich", "typing_extensions.py", "yaml",
)
PLUGIN_CACHE = "lib/twisted/plugins/dropin.cache"
SOURCES = ("setup.py", "pyproject.toml", "README.md", "daemon", "twisted")
# What of the installed packages no daemon needs: tests, what compilers read, where pip noted what it did.
TESTS = ("test", "tests", "_test")
NEEDLESS = (".pyi", ".pyx", ".pxd", ".c", ".h", ".proto")
NOTES = ("RECORD", "INSTALLER", "REQUESTED", "WHEEL", "direct_url.json", "entry_points.txt", "top_level.txt")
GLIBC = re.compile(rb"(?<=\0)GLIBC_([0-9]+(?:\.[0-9]+)+)(?=\0)")  # the symbol versions an ELF file asks for

ENTRY = '''\
#!/usr/bin/env python3
"""{name} with the packages of ../lib and no others of this host. Made by scripts/bundle."""

import os
import sys

PYTHON = {python}
OPTIMIZE = {optimize}  # {why}
WORDS = {words}  # no variables, no site-packages, no user's own; nothing is written here

here = os.path.realpath(__file__)  # not by way of "current": what is imported late must be of this version
right = sys.version_info[:2] == PYTHON
flags = sys.flags
alone = flags.isolated and flags.no_site and flags.dont_write_bytecode
if not (right and alone and flags.optimize == OPTIMIZE):
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
{known_as}
from {module} import {function}

{function}()
'''

# ROOT/bin/hostctl, without its first line: outside of all versions like the launcher, never written again. It
# stays in its process, for an exec is a second start of Python, which takes longer than the question.
FOLLOWER = '''\
"""Runs the hostctl of the version that ROOT/current names. Made by scripts/bundle install."""

import os
import sys

sys.argv[0] = os.path.realpath(__file__)  # "init" names programs beside it, which must be those that stay
root = os.path.dirname(os.path.dirname(sys.argv[0]))
__file__ = os.path.realpath(os.path.join(root, "current", "bin", "hostctl"))
try:
    with open(__file__, "rb") as file:
        program = file.read()
except OSError as error:
    sys.exit("hostctl: %s: %s; what is installed in %s has no hostctl" % (__file__, error.strerror, root))
exec(compile(program, __file__, "exec"))
'''

# Runs on the tree alone, as the installed version will.
COMPILE = '''\
import pathlib, py_compile, sys
lib, level = pathlib.Path(sys.argv[1]), int(sys.argv[2])
for name in sys.argv[3:]:
    whole = lib / name
    for path in sorted(whole.rglob("*.py")) if whole.is_dir() else [whole]:
        try:
            py_compile.compile(
                str(path), dfile=str(path.relative_to(lib.parent)), doraise=True, optimize=level,
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
    (tree / PROGRAM).write_text(twistd())
    (tree / COMMAND_LINE).write_text(hostctl())
    (tree / COMMAND_LINE).chmod(0o755)
    shutil.copy(checkout / "LICENSE", tree / "LICENSE")
    # Compiled here, for hosts where nobody may write, and as each program starts itself.
    # Unchecked: what is signed needs no other check.
    # The seed makes the order of sets in the compiled files the same each time.
    for level, names in ((2, (".",)), (0, COMMAND_LINE_USES)):
        alone = [sys.executable, "-s", "-S", "-c", COMPILE, str(tree / "lib"), str(level), *names]
        run(alone, "the sources cannot be compiled", env={"PYTHONHASHSEED": "0"})
    alone = [sys.executable, "-I", "-S", "-B", "-c", PLUGINS, str(tree / "lib")]
    run(alone, "twistd does not find the daemon's plug-in")
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_dir())
    if PLUGIN_CACHE not in names:
        raise Fault("twisted wrote no dropin.cache")
    return Content(files={name: tree / name for name in names}, main=PROGRAM)


def twistd() -> str:
    """``bin/twistd`` of a version."""
    return ENTRY.format(
        name="twistd", python=sys.version_info[:2], optimize=2, why="no docstrings, which saves memory",
        words=["-I", "-S", "-B", "-OO"], known_as="sys.argv[0] = here\n", module="twisted.scripts.twistd",
        function="run",
    )


def hostctl() -> str:
    """``bin/hostctl`` of a version."""
    return ENTRY.format(
        name="hostctl", python=sys.version_info[:2], optimize=0, why="--help is made of docstrings",
        words=["-I", "-S", "-B"], known_as="", module="daemon.cli.entry", function="main",
    )


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
