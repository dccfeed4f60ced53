"""Floor: BENCH_AGENTS processes by reactor.spawnProcess, each started again when it ends."""

import os

from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.protocol import ProcessProtocol

folder = os.environ["BENCH_DIR"]
environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": os.environ["HOME"], "LC_ALL": "C"}
null = os.open(os.devnull, os.O_RDONLY)
log = os.open(f"{folder}/agent.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
descriptors = {0: null, 1: log, 2: log}


class Agent(ProcessProtocol):
    def __init__(self, name):
        self.arguments = ["/bin/bash", "-c", os.environ["BENCH_SCRIPT"], "agent", name, f"{folder}/marks",
                          os.environ["BENCH_FIFO"]]

    def start(self):
        reactor.spawnProcess(self, "/bin/bash", self.arguments, environment, childFDs=descriptors)

    def processEnded(self, reason):
        self.start()


for number in range(int(os.environ["BENCH_AGENTS"])):
    reactor.callWhenRunning(Agent(f"a{number}").start)
if os.environ["BENCH_STALLS"]:
    from bench.stalls import install

    install(reactor, os.environ["BENCH_STALLS"])
application = Application("spawner")
