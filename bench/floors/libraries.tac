"""Floor: the packages the daemon is built on, a Klein page, and BENCH_AGENTS processes."""

import os
import sys

sys.modules["OpenSSL"] = None  # as the daemon does where nothing needs TLS

import msgspec  # noqa: E402, F401
import prometheus_client  # noqa: E402, F401
import psutil  # noqa: E402, F401
import yaml  # noqa: E402, F401
from klein import Klein  # noqa: E402
from twisted.internet import reactor  # noqa: E402
from twisted.web.server import Site  # noqa: E402

with open(os.path.join(os.path.dirname(__file__), "spawner.tac"), encoding="utf-8") as source:
    exec(source.read())  # defines the application

app = Klein()


@app.route("/")
def page(request):
    return b"ok"


reactor.listenTCP(int(os.environ["BENCH_PORT"]), Site(app.resource()), interface="127.0.0.1")
