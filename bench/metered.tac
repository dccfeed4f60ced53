"""The real daemon with the meter of :mod:`bench.stalls` beside it: ``twistd -ny bench/metered.tac``."""

import os

from bench.stalls import install
from daemon.tap import Options, makeService
from twisted.application.service import Application

options = Options()
options.parseOptions(["--config", os.environ["BENCH_CONFIG"]])
application = Application("hostdaemon")
makeService(options).setServiceParent(application)

from twisted.internet import reactor  # noqa: E402 - after makeService, as twistd itself does

install(reactor, os.environ["BENCH_STALLS"])
