"""The gRPC edge: the daemon's own server, and its link to the Manager."""

from daemon.rpc import grpc_env as grpc_env  # first of all: grpc reads its environment when it is imported
