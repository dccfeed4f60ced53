"""Floor: a bare grpcio server that answers ListAgents with as many bytes as the request says.

Its options are those of the daemon's own server: pings, streams, sizes and the bound on calls cost both.
"""

import os
from concurrent import futures

import daemon.rpc.grpc_env  # noqa: F401 - before grpc

# isort: split
import grpc
from twisted.application.service import Application

from daemon.rpc.listen import server_options

answers = {}


def echo(request, context):
    if request not in answers:
        answers[request] = bytes(int(request))
    return answers[request]


handlers = {"ListAgents": grpc.unary_unary_rpc_method_handler(echo)}
server = grpc.server(
    futures.ThreadPoolExecutor(32), options=server_options(4 * 2**20), maximum_concurrent_rpcs=1024
)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("proto.DaemonService", handlers),))
server.add_insecure_port(f"127.0.0.1:{os.environ['BENCH_PORT']}")
server.start()
application = Application("grpc_echo")
