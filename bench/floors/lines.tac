"""Floor: a LineReceiver on a Unix socket that decodes each line with msgspec, and nothing more."""

import os

import msgspec
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver


class Beat(msgspec.Struct):
    pid: int
    timestamp: str
    version: str
    status: str
    cpu: float
    memory: int


decode = msgspec.json.Decoder(Beat).decode


class Lines(LineReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        decode(line)


reactor.listenUNIX(os.environ["BENCH_DIR"] + "/beats.sock", Factory.forProtocol(Lines))
application = Application("lines")
