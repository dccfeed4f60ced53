"""Floor: ``libraries.tac`` with what gRPC needs: grpcio, protobuf, grpcio-status."""

import os

import google.protobuf.message  # noqa: F401
import google.rpc.status_pb2  # noqa: F401

import daemon.rpc.grpc_env  # noqa: F401 - before grpc

# isort: split
import grpc_status.rpc_status  # noqa: F401

with open(os.path.join(os.path.dirname(__file__), "libraries.tac"), encoding="utf-8") as source:
    exec(source.read())  # defines the application
