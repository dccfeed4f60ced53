"""Floor: a Klein route that returns a constant, without an access log."""

import os

from klein import Klein
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.web.server import Site

app = Klein()


@app.route("/heartbeat", methods=["POST"])
def heartbeat(request):
    request.setHeader(b"content-type", b"application/json")
    return b'{"success":true,"message":"heartbeat accepted","timestamp":"2026-11-20T10:00:00Z"}'


class Quiet(Site):
    def log(self, request):
        """No access log."""


reactor.listenTCP(int(os.environ["BENCH_PORT"]), Quiet(app.resource()), interface="127.0.0.1")
application = Application("klein")
