"""The console script ``hostctl``; apart from :mod:`daemon.cli.main`: Ctrl-C during its imports is quiet."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs ``hostctl`` and leaves with its exit status."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # not where a shell told us to ignore it (``hostctl ... &``)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from daemon.cli.main import run

    signal.signal(signal.SIGINT, handler)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
