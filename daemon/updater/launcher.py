#!/usr/bin/env python3
"""``ROOT/bin/twistd``: starts the version that ``ROOT/current`` names; a copy of this file, outside of all
versions.

Nothing but the standard library, for it must run whatever a version is made of.
``ROOT/versions/V/{bin/twistd,lib/...,manifest.json}`` are the versions.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

CURRENT, PROGRAM = "current", "bin/twistd"


def main() -> None:
    """Becomes the current version's program."""
    program = Path(__file__).resolve().parent.parent / CURRENT / PROGRAM
    if not program.is_file():
        sys.exit(f"hostdaemon: there is no {program}; install a version with scripts/bundle install")
    # Isolated from variables and packages of the host, as the version itself would else start once more.
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-B", str(program), *sys.argv[1:]])


if __name__ == "__main__":
    main()
