"""twistd plug-in: names the programs without importing them (``twistd --help`` stays quick)."""

from twisted.application.service import ServiceMaker

hostdaemon = ServiceMaker(
    "hostdaemon",
    "daemon.tap",
    "Keeps telemetry agents alive and healthy, collects host metrics, answers to a Manager.",
    "hostdaemon",
)

hostagent = ServiceMaker(
    "hostagent",
    "daemon.agentkit.tap",
    "The bundled agent: heartbeats to a hostdaemon and a small HTTP page of its own.",
    "hostagent",
)

hostmanager = ServiceMaker(
    "hostmanager",
    "daemon.manager.tap",
    "The reference Manager: daemons register and report over gRPC, operators look and operate over HTTP.",
    "hostmanager",
)
